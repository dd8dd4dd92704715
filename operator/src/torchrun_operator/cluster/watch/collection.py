"""A watch without kopf: a LIST in pages, then a WATCH from its resource version on. Reads cost no request.

It misses nothing: if the API server no longer has the events since the last one, the watch lists everything again.

kopf could watch pods too, but it copies, compares and schedules each event for handlers that do not need it. With 450
starting pods, that took three quarters of the operator's CPU time.
"""

import asyncio
import json
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol

from torchrun_operator.cluster.port import ClusterError, Manifest, TooLargeError
from torchrun_operator.cluster.watch.base import FORBIDDEN, RENEW_SECONDS, Kind, Watch

_RETRY_SECONDS = 1.0
_PAGE = 500
"""Objects in one page of a list. Only the kept part of each object outlives its page."""
_GONE = 410
"""The API server no longer has the events since the requested resource version."""


class Api(Protocol):
    """The requests that a watch needs. Both raise ClusterError."""

    async def list(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        """Return a list, or a page of one. Raises TooLargeError if it does not fit into memory."""
        ...

    def watch(self, path: str, query: Mapping[str, str], opened: Callable[[], None]) -> AsyncIterator[bytes]:
        """Return the events of a watch, one line of JSON each, until the server ends it.

        Calls `opened` once the server has accepted the request.
        """
        ...


async def pages(api: Api, path: str, query: Mapping[str, str]) -> AsyncIterator[dict[str, Any]]:
    """Return the pages of a list, all of one version. Raises ClusterError, with status 410 if that version is too old.

    Objects may have any size: a page that does not fit is requested again with fewer objects.
    """
    size, token = _PAGE, ""
    while True:
        more = {"continue": token} if token else {}
        try:
            page = await api.list(path, {**query, "limit": str(size), **more})
        except TooLargeError:
            if size == 1:
                raise
            size = max(1, size // 8)
            continue
        yield page
        token = page["metadata"].get("continue") or ""
        if not token:
            return


class CollectionWatch(Watch):
    """Follows one collection. Subclasses keep what they need of it."""

    forbidden_retry_seconds = 15.0

    def __init__(self, kind: Kind, namespace: str, api: Api, path: str, query: Mapping[str, str]) -> None:
        """`path` is the path of the collection; `query` selects objects of it."""
        super().__init__(kind, namespace)
        self._api = api
        self._path = path
        self._query = dict(query)
        self._version = 0
        """The watch has seen everything up to this resource version."""

    async def run(self) -> None:
        """See Watch.run."""
        version: str | None = None
        while True:
            try:
                if version is None:
                    version = await self._list()
                version = await self._follow(version)
            except ClusterError as error:
                if error.status == _GONE and version is not None:
                    version = None
                    continue
                self.failed(error)
                if error.status == FORBIDDEN:
                    version = None  # the watch misses changes until the next list
                await self._pause(self.forbidden_retry_seconds if error.status == FORBIDDEN else _RETRY_SECONDS)

    async def _pause(self, seconds: float) -> None:
        """Sleep, with heartbeats: a long pause is not a hang."""
        end = asyncio.get_running_loop().time() + seconds
        while (left := end - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(left, RENEW_SECONDS))
            self.beat()

    async def _list(self) -> str:
        kept: list[Manifest] = []
        async for page in pages(self._api, self._path, self._query):
            kept += map(self._kept, page["items"])
            self.beat()
        self._replace(kept)
        self.listed()
        return self._seen(page)

    def _seen(self, thing: Mapping[str, Any]) -> str:
        version: str = thing["metadata"]["resourceVersion"]
        self._version = int(version)
        return version

    async def _follow(self, version: str) -> str:
        """Follow until the stream ends. Return the resource version to continue from."""
        query = {
            **self._query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(RENEW_SECONDS),
        }
        async for line in self._api.watch(self._path, query, self.connected):
            kind, thing = _event(line)
            if kind == "ERROR":
                raise ClusterError(thing.get("code", 0), thing.get("reason", "Error"), thing.get("message", ""))
            version = self._seen(thing)
            self.beat()
            if kind == "DELETED":
                self._remove(thing)
            elif kind != "BOOKMARK":
                self._put(self._kept(thing))
        self.beat()
        return version

    @abstractmethod
    def _kept(self, thing: Mapping[str, Any]) -> Manifest:
        """Return what to keep of an object, with its name and namespace."""

    @abstractmethod
    def _replace(self, kept: Sequence[Manifest]) -> None:
        """Keep these objects and no others."""

    @abstractmethod
    def _put(self, kept: Manifest) -> None:
        """Keep an object that is new or has changed."""

    @abstractmethod
    def _remove(self, thing: Mapping[str, Any]) -> None:
        """Drop an object that was deleted."""


def _event(line: bytes) -> tuple[str, Mapping[str, Any]]:
    """Return the type and object of an event. Raises ClusterError for anything else, such as a truncated line."""
    try:
        event = json.loads(line)
        return event["type"], event["object"]
    except (ValueError, LookupError, TypeError) as error:
        raise ClusterError(0, "BadEvent", f"{error}: {line[:200]!r}") from error
