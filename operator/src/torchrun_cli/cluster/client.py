"""Reads and writes objects of the API server: plain dicts, as its JSON has them."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Final
from urllib.parse import urlencode

import click

from torchrun_cli.cluster.answers import ApiError, api_error
from torchrun_cli.cluster.kubeconfig import Access, find_access
from torchrun_cli.cluster.resources import Resource
from torchrun_cli.cluster.transport import Answer, HttpTransport, Transport
from torchrun_cli.errors import CliError
from torchrun_cli.options import Target

FIELD_MANAGER: Final = "kubectl-torchrun"
MERGE_PATCH: Final = "application/merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"
_JSON: Final = "application/json, */*"
_METADATA: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_PAGE: Final = 500
_MOST_RETRIES: Final = 5
_LONGEST_RETRY: Final = 10.0

Object = dict[str, Any]


class Client:
    """The API server of one access. Threads may share it."""

    def __init__(
        self,
        access: Access,
        transport: Transport,
        *,
        warn: Callable[[str], None] = lambda text: click.echo(f"Warning: {text}", err=True),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.access = access
        self._transport = transport
        self._warn = warn
        self._sleep = sleep

    @property
    def namespace(self) -> str:
        """The namespace of the command."""
        return self.access.namespace

    def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        """Return an object. Raises ApiError, with exit code 3 if there is none."""
        return self._json("GET", resource.path(namespace or self.namespace, name))

    def find(self, resource: Resource, name: str, namespace: str | None = None) -> Object | None:
        """Return an object, or None if there is none. Raises ApiError."""
        try:
            return self.get(resource, name, namespace)
        except ApiError as error:
            if error.status == 404 and error.reason == "NotFound" and f'"{name}"' in error.message:
                return None
            raise

    def list(
        self,
        resource: Resource,
        namespace: str | None,
        *,
        labels: str = "",
        fields: str = "",
        names_only: bool = False,
    ) -> tuple[list[Object], str]:
        """Return the objects and the version of the list, read in pages. No namespace: of all. Raises ApiError.

        ``names_only``: only their metadata.
        """
        query = {"limit": str(_PAGE), "labelSelector": labels, "fieldSelector": fields}
        found: list[Object] = []
        while True:
            page = self._json("GET", resource.path(namespace), query, accept=_METADATA if names_only else _JSON)
            items = page.get("items") or ()
            # The items of a list carry no kind of their own.
            found += [{"apiVersion": resource.api_version, "kind": resource.kind, **item} for item in items]
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                return found, str(metadata.get("resourceVersion") or "")
            query["continue"] = metadata["continue"]

    def create(self, resource: Resource, manifest: Object, *, dry_run: bool = False) -> Object:
        """Create an object in the namespace of the command, or in its own. Raises ApiError."""
        namespace = (manifest.get("metadata") or {}).get("namespace") or self.namespace
        query = {"fieldManager": FIELD_MANAGER, "dryRun": "All" if dry_run else "", "fieldValidation": "Strict"}
        return self._json("POST", resource.path(namespace), query, manifest)

    def apply(self, resource: Resource, manifest: Object, *, force: bool = False, dry_run: bool = False) -> Object:
        """Create or change an object by server-side apply. Raises ApiError, with status 409 on a conflict."""
        metadata = manifest["metadata"]
        path = resource.path(metadata.get("namespace") or self.namespace, metadata["name"])
        query = {
            "fieldManager": FIELD_MANAGER,
            "force": "true" if force else "",
            "dryRun": "All" if dry_run else "",
            "fieldValidation": "Strict",
        }
        return self._json("PATCH", path, query, manifest, APPLY_PATCH)

    def patch(self, resource: Resource, name: str, change: Object, *, subresource: str | None = None) -> Object:
        """Merge a change into an object in the namespace of the command. Raises ApiError."""
        path = resource.path(self.namespace, name, subresource)
        return self._json("PATCH", path, {"fieldManager": FIELD_MANAGER}, change, MERGE_PATCH)

    def delete(self, resource: Resource, name: str, *, uid: str | None = None, grace: int | None = None) -> None:
        """Delete an object in the namespace of the command. Raises ApiError, with status 409 if its uid is another."""
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        self._json("DELETE", resource.path(self.namespace, name), {}, options)

    @contextmanager
    def stream(self, path: str, query: dict[str, str], *, seconds: float | None) -> Iterator[Iterator[bytes]]:
        """Open a stream, and give the pieces of its body as they come. Raises ApiError and UnreachableError.

        ``seconds`` limits each wait for data; None: no limit.
        """
        with closing(self._answer("GET", path, query, None, "", seconds)) as answer:
            yield answer.chunks()

    def fetch(self, path: str) -> tuple[str, str | None]:
        """Return what the server answers to a GET, as text, and the Date header of the answer. Raises ApiError."""
        with closing(self._answer("GET", path, {}, None, "", 30.0)) as answer:
            return b"".join(answer.chunks()).decode(errors="replace"), answer.header("Date")

    def _json(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: Object | None = None,
        kind: str = "",
        accept: str = "",
    ) -> Object:
        text = json.dumps(body).encode() if body is not None else None
        with closing(self._answer(method, path, query or {}, text, kind, 30.0, accept)) as answer:
            content = b"".join(answer.chunks())
        try:
            found = json.loads(content)
        except ValueError as error:
            raise CliError(
                f"{self.access.server} does not answer as an API server does: check the kubeconfig"
            ) from error
        assert isinstance(found, dict)
        return found

    def _answer(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        body: bytes | None,
        kind: str,
        seconds: float | None,
        accept: str = "",
    ) -> Answer:
        """Send a request, again if the server asks for that or if newer credentials may help. Raises ApiError."""
        words = urlencode([(key, value) for key, value in query.items() if value])
        target = f"{path}?{words}" if words else path
        headers = _headers(kind or "application/json" if body is not None else "", accept or _JSON)
        retries, renewed = 0, False
        while True:
            answer = self._transport.send(method, target, headers=headers, body=body, seconds=seconds)
            for text in _warnings(answer.header("Warning")):
                self._warn(text)
            if answer.status < 400:
                return answer
            pause = _retry_after(answer)
            with closing(answer):
                refusal = api_error(answer.status, b"".join(answer.chunks()), path)
            if answer.status == 401 and not renewed and self._transport.renew():
                renewed = True
            elif pause is not None and retries < _MOST_RETRIES:
                retries += 1
                self._sleep(pause)
            else:
                raise refusal


def connect(target: Target) -> Client:
    """Return the client for the cluster that the options choose. Raises CliError if the kubeconfig is wrong."""
    access = find_access(target)
    return Client(access, HttpTransport(access))


def _headers(kind: str, accept: str) -> Sequence[tuple[str, str]]:
    given = [("Accept", accept), ("User-Agent", FIELD_MANAGER)]
    return [*given, ("Content-Type", kind)] if kind else given


def _retry_after(answer: Answer) -> float | None:
    """Return the pause that the server asks for. None: it asks for none."""
    value = answer.header("Retry-After") or ""
    if answer.status not in (429, 503) or not value.isdigit():
        return None
    return min(float(value), _LONGEST_RETRY)


def _warnings(header: str | None) -> Iterator[str]:
    """Yield the texts of a Warning header: `299 - "text"`, with backslashes before quotes."""
    rest = header or ""
    while (begin := rest.find('"')) >= 0:
        end = begin + 1
        while end < len(rest) and rest[end] != '"':
            end += 2 if rest[end] == "\\" else 1
        yield rest[begin + 1 : end].replace('\\"', '"').replace("\\\\", "\\")
        rest = rest[end + 1 :]
