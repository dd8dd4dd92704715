"""A small asynchronous client of the API server of KUBECONFIG, for benchmarks and chaos."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from kubernetes.aio import client, config

_CONNECTIONS = 64
_WATCH_SECONDS = 300.0
_GONE_SECONDS = 120.0


class Api:
    """JSON requests. Any status above 299 is an error."""

    def __init__(self, api: Any) -> None:  # noqa: ANN401 - the client is untyped
        self._api = api

    @classmethod
    @asynccontextmanager
    async def connected(cls) -> AsyncIterator["Api"]:
        """Connect as the kubeconfig says while the block runs."""
        configuration = client.Configuration()
        await config.load_kube_config(client_configuration=configuration)
        configuration.connection_pool_maxsize = _CONNECTIONS
        api = client.ApiClient(configuration)
        try:
            yield cls(api)
        finally:
            await api.close()

    async def call(
        self, verb: str, path: str, body: dict[str, Any] | None = None, *, metadata_only: bool = False
    ) -> dict[str, Any]:
        """Make one request and return the answer, optionally only the metadata of a list. Raises RuntimeError."""
        accept = "application/json"
        if metadata_only:
            accept += ";as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
        headers = {"Accept": accept, "Content-Type": "application/json"}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], path, verb, body)
        url = f"{self._api.configuration.host}/{path}"
        response = await self._api.call_api(verb, url, headers, body, _request_timeout=60)
        data = await response.read()
        if response.status > 299:
            raise RuntimeError(f"{verb} {path}: {response.status} {data[:300].decode(errors='replace')}")
        answer: dict[str, Any] = json.loads(data)
        return answer

    async def watch(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the events of a watch (a path with `watch=true` in its query) until it ends. Raises RuntimeError."""
        headers = {"Accept": "application/json"}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], path, "GET", None)
        url = f"{self._api.configuration.host}/{path}"
        answer = await self._api.call_api("GET", url, headers, _request_timeout=_WATCH_SECONDS)
        async with answer.response as stream:
            if stream.status > 299:
                raise RuntimeError(f"GET {path}: {stream.status} {(await stream.text())[:300]}")
            async for line in stream.content:
                yield json.loads(line)

    @asynccontextmanager
    async def namespace(self, name: str) -> AsyncIterator[None]:
        """Create a namespace for the block, and delete it with all its objects at the end."""
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        await self.call("POST", "api/v1/namespaces", body)
        try:
            yield
        finally:
            await self.call("DELETE", f"api/v1/namespaces/{name}")
            await self._gone(f"api/v1/namespaces/{name}")

    async def _gone(self, path: str) -> None:
        """Wait until the object is gone. Raises TimeoutError."""
        async with asyncio.timeout(_GONE_SECONDS):
            while True:
                try:
                    await self.call("GET", path)
                except RuntimeError:
                    return
                await asyncio.sleep(0.3)
