"""A list and the watch after it, as one stream of changes that survives broken connections."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from torchrun_cli.cluster.answers import ApiError
from torchrun_cli.cluster.client import Client
from torchrun_cli.cluster.resources import Resource
from torchrun_cli.cluster.transport import UnreachableError
from torchrun_cli.errors import CliError

_WATCH_SECONDS: Final = 300
_GRACE_SECONDS: Final = 15.0
"""The server ends a watch by itself. A connection that is silent for longer is dead."""
_PAUSES: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
_LONGEST_EVENT: Final = 32 * 1024 * 1024


class Change(NamedTuple):
    """An object that is new or has changed, or, if `deleted`, that is gone."""

    object: dict[str, Any]
    deleted: bool = False


@dataclass
class Feed:
    """The objects of a collection, as a stream of changes: all of them first, then each change.

    ``synced`` becomes true when all objects of the first list were given.
    """

    client: Client
    resource: Resource
    namespace: str | None
    labels: str = ""
    fields: str = ""
    until: float | None = None
    """When the stream ends, by the monotonic clock. None: never."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    synced: bool = False
    _known: dict[str, dict[str, Any]] = field(default_factory=dict)
    _failures: int = 0

    def expect(self, *known: dict[str, Any]) -> None:
        """Note objects that the caller has already. If the first list lacks one of them, it was deleted."""
        self._known |= {each["metadata"]["uid"]: each for each in known}

    def changes(self) -> Iterator[Change]:
        """Yield the changes until the time is over. Raises CliError if the first list fails, or if a right is gone."""
        version = ""
        while not self._over():
            try:
                if not version:
                    objects, version = self.client.list(
                        self.resource, self.namespace, labels=self.labels, fields=self.fields
                    )
                    yield from self._replace(objects)
                    self.synced = True
                for event in self._events(version):
                    if event["type"] == "ERROR":
                        version = ""
                        break
                    version = event["object"]["metadata"]["resourceVersion"]
                    yield from self._apply(event)
                self._failures = 0
            except CliError as error:
                if not self.synced or not _passes(error):
                    raise
                if isinstance(error, ApiError) and error.status == 410:
                    version = ""
                self._pause()

    def _over(self) -> bool:
        return self.until is not None and self.clock() >= self.until

    def _pause(self) -> None:
        pause = _PAUSES[min(self._failures, len(_PAUSES) - 1)]
        self._failures += 1
        left = self.until - self.clock() if self.until is not None else pause
        self.sleep(max(0.0, min(pause, left)))

    def _replace(self, objects: list[dict[str, Any]]) -> Iterator[Change]:
        """Yield what a new list changes. An object that is missing was deleted while the stream was broken."""
        now = {each["metadata"]["uid"]: each for each in objects}
        for uid in [uid for uid in self._known if uid not in now]:
            yield Change(self._known.pop(uid), deleted=True)
        for uid, each in now.items():
            old = self._known.get(uid)
            self._known[uid] = each
            if old is None or old["metadata"]["resourceVersion"] != each["metadata"]["resourceVersion"]:
                yield Change(each)

    def _apply(self, event: dict[str, Any]) -> Iterator[Change]:
        if event["type"] == "BOOKMARK":
            return
        found, deleted = event["object"], event["type"] == "DELETED"
        if deleted:
            self._known.pop(found["metadata"]["uid"], None)
        else:
            self._known[found["metadata"]["uid"]] = found
        yield Change(found, deleted)

    def _events(self, version: str) -> Iterator[dict[str, Any]]:
        left = self.until - self.clock() if self.until is not None else float(_WATCH_SECONDS)
        seconds = max(1, min(_WATCH_SECONDS, round(left)))
        query = {
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
            "labelSelector": self.labels,
            "fieldSelector": self.fields,
        }
        path = self.resource.path(self.namespace)
        wait = min(seconds + _GRACE_SECONDS, left + 0.05) if self.until is not None else seconds + _GRACE_SECONDS
        with self.client.stream(path, query, seconds=max(wait, 0.05)) as chunks:
            for line in lines(chunks, _LONGEST_EVENT):
                yield json.loads(line)


def lines(chunks: Iterator[bytes], longest: int) -> Iterator[bytes]:
    """Yield the lines of a stream, without their ends. A line above the limit comes in pieces of that size."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk if rest else chunk).split(b"\n")
        for line in whole:
            yield from _pieces(line, longest)
        while len(rest) > longest:
            yield rest[:longest]
            rest = rest[longest:]
    if rest:
        yield rest


def _pieces(line: bytes, longest: int) -> Iterator[bytes]:
    yield line[:longest]
    for begin in range(longest, len(line), longest):
        yield line[begin : begin + longest]


def _passes(error: CliError) -> bool:
    """Whether a failure may pass by itself: the connection, or trouble of the server."""
    if isinstance(error, ApiError):
        return error.status in (410, 429) or error.status >= 500
    return isinstance(error, UnreachableError)
