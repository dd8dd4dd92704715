"""The interface of all watches. Each one reads the API server in its own way."""

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from typing import Final, Literal

from torchrun_operator.cluster.port import ClusterError, NotSyncedError

logger = logging.getLogger(__name__)

Kind = Literal["jobs", "pods", "nodes"]

FORBIDDEN: Final = 403
RENEW_SECONDS: Final = 10
"""The API server ends each stream after this time. The next request shows that a quiet watch works."""
SILENCE_SECONDS: Final = 13.0
"""A stream without data or end for longer is lost."""
HEARTBEAT_SECONDS: Final = 45.0
"""Maximum time between two heartbeats: a silent stream, a pause and a request without an answer."""
_SYNC_SECONDS = 30.0
"""Maximum wait of a pass for the first list, shorter than the time after which a pass counts as stuck."""


class WatchHungError(Exception):
    """The watch does not respond and cannot be stopped. Only a restart of the process helps."""


class Watch(ABC):
    """Follows one kind of object in one namespace or in all, and wakes the jobs that a change affects.

    All state belongs to the event loop that runs `run()`. `run()` retries requests that fail. It ends only when it is
    cancelled or when an unexpected error occurs. It may then run again.
    """

    def __init__(self, kind: Kind, namespace: str = "") -> None:
        """Namespace "" means all namespaces."""
        self.kind: Final = kind
        self.namespace: Final = namespace
        self.name: Final = f"watch of {kind}" + (f" in namespace {namespace}" if namespace else "")
        self.synced = False
        """The first list has succeeded."""
        self.up = False
        """The API server answered the last request, so changes arrive."""
        self.forbidden: ClusterError | None = None
        """Why the operator may not read the objects. None: it may."""
        self.last_heartbeat = asyncio.get_running_loop().time()
        """In seconds of the event loop's clock."""
        self.failing = False
        """The last request failed."""
        self._settled = asyncio.Event()
        """Set once the objects are listed, or while they are forbidden."""

    @abstractmethod
    async def run(self) -> None:
        """Follow the objects until cancelled. Raises WatchHungError if the watch can neither continue nor stop."""

    def ended(self) -> None:
        """Record that `run()` has ended."""
        self.up = False

    @property
    def silent_seconds(self) -> float:
        """Seconds since the last heartbeat."""
        return asyncio.get_running_loop().time() - self.last_heartbeat

    def beat(self) -> None:
        """Record a heartbeat: the watch received data, or a request ended with any result."""
        self.last_heartbeat = asyncio.get_running_loop().time()

    async def wait_synced(self) -> None:
        """Wait for the first list. Raises ClusterError if the objects are forbidden or the list takes too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SYNC_SECONDS):
                await self._settled.wait()
        self.require_synced()

    def require_synced(self) -> None:
        """Raise NotSyncedError before the first list, and ClusterError if the objects are forbidden."""
        if not self._settled.is_set():
            raise NotSyncedError(0, "NotSynced", f"{self.name}: not listed yet")
        if self.forbidden is not None:
            raise ClusterError(FORBIDDEN, "Forbidden", f"{self.name}: {self.forbidden.message}")

    def _settle(self) -> None:
        """Let reads go on: with the objects, or with the reason why there are none."""
        self._settled.set()

    def connected(self) -> None:
        """Record that the API server answered. Log it if the previous request failed."""
        self.beat()
        if self.failing:
            logger.info("%s: works again", self.name)
        self.up, self.failing, self.forbidden = True, False, None

    def listed(self) -> None:
        """Record that all objects are listed."""
        self.connected()
        self.synced = True
        self._settle()

    def failed(self, error: ClusterError) -> None:
        """Record a request that failed. Log the first of several in a row."""
        self.beat()
        is_forbidden = error.status == FORBIDDEN
        if not self.failing or is_forbidden != (self.forbidden is not None):
            logger.warning("%s: cannot read from the API server, retrying: %s", self.name, error)
        self.up, self.failing = False, True
        self.forbidden = error if is_forbidden else None
        if is_forbidden:
            self._settle()
        elif not self.synced:
            self._settled.clear()


def awaited(watches: Iterable[Watch]) -> list[str]:
    """Return the names of the watches that the operator waits for before it is ready.

    It does not wait for a namespace that is forbidden or does not answer, unless all are: an operator that can read
    nothing is not ready.
    """
    watches = list(watches)
    readable = {watch.kind for watch in watches if watch.synced and watch.forbidden is None}
    return [watch.name for watch in watches if not _is_read(watch) and not _is_exempt(watch, readable)]


def _is_read(watch: Watch) -> bool:
    return watch.synced and watch.forbidden is None


def _is_exempt(watch: Watch, readable: Collection[Kind]) -> bool:
    if watch.kind == "nodes":
        return watch.forbidden is not None
    return watch.failing and watch.kind in readable


def unreadable(watches: Iterable[Watch]) -> list[str]:
    """Return a line for each watch whose objects are forbidden."""
    return [
        f"{watch.name}: forbidden, retried: {watch.forbidden.message}"
        for watch in watches
        if watch.forbidden is not None
    ]
