"""What every watch offers to the rest of the operator, whatever reads the API server behind it."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Final, Literal

from torchrun_operator.cluster.port import ClusterError

logger = logging.getLogger(__name__)

Kind = Literal["jobs", "pods", "nodes"]

FORBIDDEN: Final = 403
RENEW_SECONDS: Final = 10
"""The API server ends each stream after this time: the next request shows that a quiet watch works."""
SILENCE_SECONDS: Final = 13.0
"""A stream that brings nothing for longer, not even its end, is dead."""
HEARTBEAT_SECONDS: Final = 45.0
"""Longest time between two heartbeats: a silent stream, a pause and a request that gets no answer."""
_SYNC_SECONDS = 30.0
"""A pass waits this long for the first list; it must end before the pass counts as stuck."""


class WatchHungError(Exception):
    """The watch does not respond and cannot be stopped: only a new process helps."""


class Watch(ABC):
    """Follows one kind of objects in one namespace or in all, and wakes the jobs that a change concerns.

    All state belongs to the event loop in which `run()` runs. `run()` retries what the API server refuses or fails to
    answer; it ends only by cancellation or by an error that it does not expect, and may then be run again.
    """

    def __init__(self, kind: Kind, namespace: str = "") -> None:
        """Namespace "" means all namespaces."""
        self.kind: Final = kind
        self.namespace: Final = namespace
        self.name: Final = f"watch of {kind}" + (f" in namespace {namespace}" if namespace else "")
        self.synced = False
        """All objects have been read once."""
        self.up = False
        """The API server answered the last request: changes arrive."""
        self.forbidden: ClusterError | None = None
        """Why the objects may not be read; None: they may."""
        self.last_heartbeat = asyncio.get_running_loop().time()
        """In seconds of the event loop's clock."""
        self.failing = False
        """The last request failed."""
        self._settled = asyncio.Event()
        """Set once the objects have been listed, or while they may not be read."""

    @abstractmethod
    async def run(self) -> None:
        """Follow the objects until cancelled. Raises WatchHungError where it can neither go on nor stop."""

    def ended(self) -> None:
        """Record that `run()` has ended."""
        self.up = False

    @property
    def silent_seconds(self) -> float:
        """How long ago the last heartbeat was."""
        return asyncio.get_running_loop().time() - self.last_heartbeat

    def beat(self) -> None:
        """Record a heartbeat: the watch received something, or a request ended, with whatever result."""
        self.last_heartbeat = asyncio.get_running_loop().time()

    async def wait_synced(self) -> None:
        """Wait for the first list. Raises ClusterError where the objects may not be read or the list takes too long."""
        try:
            async with asyncio.timeout(_SYNC_SECONDS):
                await self._settled.wait()
        except TimeoutError as error:
            raise ClusterError(0, "NotSynced", f"{self.name}: not listed yet") from error
        if self.forbidden is not None:
            raise ClusterError(FORBIDDEN, "Forbidden", f"{self.name}: {self.forbidden.message}")

    def connected(self) -> None:
        """Record that the API server answered; log it if it did not before."""
        self.beat()
        if self.failing:
            logger.info("%s: works again", self.name)
        self.up, self.failing, self.forbidden = True, False, None

    def listed(self) -> None:
        """Record that all objects have been read."""
        self.connected()
        self.synced = True
        self._settled.set()

    def failed(self, error: ClusterError) -> None:
        """Record a request that failed; log the first of a row."""
        self.beat()
        is_forbidden = error.status == FORBIDDEN
        if not self.failing or is_forbidden != (self.forbidden is not None):
            logger.warning("%s: the API server cannot be read, retrying: %s", self.name, error)
        self.up, self.failing = False, True
        self.forbidden = error if is_forbidden else None
        if is_forbidden:
            self._settled.set()
        elif not self.synced:
            self._settled.clear()


def awaited(watches: Iterable[Watch]) -> list[str]:
    """Return the names of the watches that the operator must wait for before it is of use.

    A forbidden namespace is not waited for, unless it is the only one: an operator that can read nothing is not ready.
    """
    watches = list(watches)
    readable = {watch.kind for watch in watches if watch.synced and watch.forbidden is None}
    return [
        watch.name
        for watch in watches
        if (not watch.synced and watch.forbidden is None)
        or (watch.forbidden is not None and watch.kind not in {*readable, "nodes"})
    ]


def unreadable(watches: Iterable[Watch]) -> list[str]:
    """Return a line for each watch whose objects may not be read."""
    return [
        f"{watch.name}: forbidden, retried: {watch.forbidden.message}"
        for watch in watches
        if watch.forbidden is not None
    ]
