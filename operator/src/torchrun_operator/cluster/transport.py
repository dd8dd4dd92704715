"""Requests to a real API server, over the asyncio client of the `kubernetes` package."""

import asyncio
import json
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.client.rest import RESTClientObject

from torchrun_operator.cluster.connections import Connections
from torchrun_operator.cluster.port import ClusterError, ConflictError, Manifest, RefusedError, TooLargeError
from torchrun_operator.cluster.watch.base import SILENCE_SECONDS
from torchrun_operator.lanes import Lanes

JSON = "application/json"
APPLY = "application/apply-patch+yaml; charset=utf-8"
MERGE = "application/merge-patch+json"
"""Without the parameter, the client encodes the body itself, as JSON that some YAML readers reject."""
_NOT_PLAIN = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""Characters that YAML rejects, or reads as a line break, unless they are escaped."""
_HALVES = re.compile("[\ud800-\udfff]")
_TIMEOUT_SECONDS = 30.0
_ANSWER_BYTES = 32 << 20
"""Maximum size of an answer and of an event. An object has at most 1.5 MiB in etcd, and six times that in JSON."""
_REQUESTS = 24
"""Requests at the same time for objects of one namespace. Each connection costs a TLS handshake in a burst of requests,
and more connections are not faster.
"""
_MESSAGE_CHARACTERS = 4096
"""The API server repeats an invalid value in its message, and a webhook may write anything."""
_NAMESPACE = re.compile("/namespaces/([^/]+)/")
_KINDS = {400: RefusedError, 403: RefusedError, 409: ConflictError, 413: RefusedError, 422: RefusedError}

LatencyObserver = Callable[[str, str, int, float], None]
"""Called after each request with its verb, resource, status (0: no answer) and seconds."""


async def configuration_of_environment() -> client.Configuration:
    """Return the configuration of this pod's service account, or that of the environment's kubeconfig."""
    configuration = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException:
        await config.load_kube_config(client_configuration=configuration)
    return configuration


class Transport:
    """Sends requests. All methods raise ClusterError or a subclass for every failure."""

    def __init__(self, configuration: client.Configuration, observe: LatencyObserver) -> None:
        """Calls `observe` for each request except watches."""
        # A pod reaches its API server without a proxy. With trust_env, each request would read ~/.netrc.
        configuration.client_session_kwargs = {"trust_env": False}
        self._connections = Connections()
        self._api = client.ApiClient(configuration)
        self._api.rest_client = _Rest(configuration, self._connections)
        self._observe = observe
        self._lanes = Lanes(_REQUESTS)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._api.close()
        await self._connections.aclose()

    async def list(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        """Return a list; see cluster.watch.collection.Api."""
        return await self.request("GET", path.rsplit("/", 1)[1], path, query=query)

    async def watch(self, path: str, query: Mapping[str, str], opened: Callable[[], None]) -> AsyncIterator[bytes]:
        """Return the lines of a watch; see cluster.watch.collection.Api."""
        headers = {"Accept": JSON}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], path, "GET", None)
        url = f"{self._api.configuration.host}/{path}?{urlencode(query)}"
        timeout = aiohttp.ClientTimeout(sock_connect=_TIMEOUT_SECONDS, sock_read=SILENCE_SECONDS)
        try:
            response = await self._api.call_api("GET", url, headers, _request_timeout=timeout)
            async with _aborted(response.response) as stream:
                if stream.status > 299:
                    answer_of(stream.status, await stream.read())
                opened()
                async for line in _lines(stream.content, path):
                    yield line
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ClusterError(0, type(error).__name__, f"WATCH {path}: {error}") from error

    async def read(self, resource: str, path: str) -> Manifest | None:
        """Return an object, or None if there is none."""
        try:
            return await self.request("GET", resource, path)
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    async def request(
        self,
        verb: str,
        resource: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        content_type: str = JSON,
    ) -> dict[str, Any]:
        """Return the object in the answer of the API server. `resource` is the kind of request for the observer."""
        return answer_of(*await self.exchange(verb, resource, path, query=query, body=body, content_type=content_type))

    async def exchange(
        self,
        verb: str,
        resource: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        content_type: str = JSON,
        seconds: float | None = None,
        most_bytes: int | None = None,
    ) -> tuple[int, bytes]:
        """Return status and body of any answer. Raises TooLargeError if the body is too large."""
        headers = {"Accept": JSON, "Content-Type": content_type}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], path, verb, body)
        url = f"{self._api.configuration.host}/{path}" + (f"?{urlencode(query)}" if query else "")
        status, started = 0, time.monotonic()
        sent = _yaml_text(body) if content_type == APPLY else body
        namespace = _NAMESPACE.search(path)
        try:
            async with self._lanes.of(namespace[1] if namespace else ""):
                response = await self._api.call_api(
                    verb, url, headers, sent, _request_timeout=seconds or _TIMEOUT_SECONDS
                )
                status = response.status
                async with _aborted(response.response) as stream:
                    data = await _body(stream, most_bytes or _ANSWER_BYTES, f"{verb} {path}")
        except (aiohttp.ClientError, TimeoutError, ssl.SSLError, OSError) as error:
            raise ClusterError(0, type(error).__name__, f"{verb} {path}: {error}") from error
        finally:
            self._observe(verb, resource, status, time.monotonic() - started)
        return status, data


class _Rest(RESTClientObject):  # type: ignore[misc]  # the client is untyped
    """The package's own HTTP session, with another connector."""

    def __init__(self, configuration: client.Configuration, connections: Connections) -> None:
        super().__init__(configuration)
        self._connections = connections

    def _create_connector(self) -> aiohttp.TCPConnector:
        # No limit: each watch holds a connection, and Transport limits requests.
        return aiohttp.TCPConnector(limit=0, ssl=self.ssl_context, socket_factory=self._connections.create)


@asynccontextmanager
async def _aborted(response: aiohttp.ClientResponse) -> AsyncIterator[aiohttp.ClientResponse]:
    """Use a response. If its end has not been read, end the connection at once.

    Otherwise it stays open until the API server has confirmed the end of TLS, or forever if the event loop ends.
    """
    async with response:
        try:
            yield response
        finally:
            connection = response.connection  # None: the end was read, and others may use the connection
            if connection is not None and isinstance(connection.transport, asyncio.WriteTransport):
                connection.transport.abort()


async def _body(response: aiohttp.ClientResponse, most_bytes: int, what: str) -> bytes:
    """Read a body of limited size. Raises TooLargeError."""
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > most_bytes:
            raise TooLargeError(0, "TooLarge", f"{what}: an answer of more than {most_bytes} bytes")
    return bytes(data)


async def _lines(content: aiohttp.StreamReader, path: str) -> AsyncIterator[bytes]:
    """Return the lines of a stream. aiohttp's own limit for lines is below the largest object.

    One object that exceeds a limit would end the watch at the same place again and again.
    """
    parts: list[bytes] = []
    size = 0
    async for chunk in content.iter_any():
        first, *others = chunk.split(b"\n")
        parts.append(first)
        size += len(first)
        for other in others:
            yield b"".join(parts)
            parts, size = [other], len(other)
        if size > _ANSWER_BYTES:
            raise TooLargeError(0, "TooLarge", f"WATCH {path}: an event of more than {_ANSWER_BYTES} bytes")
    if size:
        yield b"".join(parts)


def _yaml_text(body: object) -> str:
    """Encode a JSON value so that YAML readers accept it. Halves of surrogate pairs become replacement characters.

    YAML rejects JSON's escape of a character beyond 16 bits, such as an emoji in an error message.
    """
    text = _HALVES.sub("\N{REPLACEMENT CHARACTER}", json.dumps(body, ensure_ascii=False))
    return _NOT_PLAIN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def answer_of(status: int, data: bytes) -> dict[str, Any]:
    """Return the object in the body of an answer. Raises ClusterError or a subclass if the answer is an error."""
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        # The answer of something in between, such as a proxy. It is not the requested object.
        raise ClusterError(status, "NoObject", data[:500].decode(errors="replace"))
    if status < 300:
        return answer
    reason, message = str(answer.get("reason") or "Error"), str(answer.get("message") or "no message")
    message = message[:_MESSAGE_CHARACTERS]
    raise _KINDS.get(status, ClusterError)(status, reason, message)
