"""The wake-up queue: each key is in it at most once, is worked on by one worker at a time, is spaced from its own last
turn, and waits longer after each failure.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_BACKOFF_FIRST_SECONDS = 0.5
_BACKOFF_MOST_SECONDS = 60.0


class QueueClosed(Exception):  # noqa: N818 - no error: the end
    """No turn is given any more."""


@dataclass
class _Key:
    due: float | None = None
    """When its next turn may begin; None: it is not waiting."""
    running: bool = False
    not_before: float = 0.0
    credit: float = 0.0
    credit_at: float | None = None
    failures: int = 0


@dataclass
class WorkQueue(Generic[K]):
    """Keys in, turns out.

    A key that has been quiet gets `burst` turns spacing_seconds apart, which is what a sudden loss needs; then one
    every sustained_seconds. What wakes it in between is merged into one turn, so that the thousand pod events of a
    start cost a few reconciliations.
    """

    clock: Callable[[], float]
    spacing_seconds: float = 0.2
    sustained_seconds: float = 1.0
    burst: int = 3
    _keys: dict[K, _Key] = field(default_factory=dict)
    _heap: list[tuple[float, int, K]] = field(default_factory=list)
    _sequence: "itertools.count[int]" = field(default_factory=itertools.count)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _closed: bool = False

    def add(self, key: K, after: float = 0.0) -> None:
        """Ask for a turn in `after` seconds or earlier; an earlier one that waits already stands."""
        now = self.clock()
        state = self._keys.setdefault(key, _Key())
        due = max(now + after, state.not_before)
        if state.due is not None and state.due <= due:
            return
        state.due = due
        if not state.running:
            self._push(key, due)

    async def get(self) -> K:
        """Wait for the next turn; its worker must call done(), failed() or forget() in the end.

        Raises QueueClosed.
        """
        while not self._closed:
            now = self.clock()
            while self._heap and self._heap[0][0] <= now:
                due, _, key = heapq.heappop(self._heap)
                state = self._keys.get(key)
                if state is None or state.running or state.due != due:
                    continue  # superseded by an earlier or later entry
                state.due, state.running = None, True
                state.not_before = now + self._spend(state, now)
                return key
            self._wake.clear()
            timeout = self._heap[0][0] - now if self._heap else None
            try:
                await asyncio.wait_for(self._wake.wait(), timeout)
            except TimeoutError:
                continue
        self._wake.set()  # the next waiter has to see it too
        raise QueueClosed

    def close(self) -> None:
        """Give no more turns; those that wait for one learn it at once."""
        self._closed = True
        self._wake.set()

    def done(self, key: K, after: float | None = None, rest: float = 0.0) -> None:
        """End a turn well; with `after`, ask for the next one in that many seconds; none begins within `rest`."""
        state = self._keys[key]
        state.failures = 0
        state.not_before = max(state.not_before, self.clock() + rest)
        self._end(key, after)

    def failed(self, key: K) -> float:
        """End a turn badly: the next one comes by itself, later after each failure. Return that delay in seconds."""
        state = self._keys[key]
        delay = float(min(_BACKOFF_MOST_SECONDS, _BACKOFF_FIRST_SECONDS * 2**state.failures))
        state.failures = min(state.failures + 1, 32)
        # What wakes the key meanwhile must not shorten the wait: a broken job would be retried at every event.
        state.not_before = self.clock() + delay
        state.due = None
        self._end(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """End the turn of a key that is no longer there."""
        state = self._keys[key]
        if state.due is None:
            del self._keys[key]
        else:
            self._end(key, None)

    @property
    def depth(self) -> int:
        """How many keys are due and have not got their turn."""
        now = self.clock()
        return sum(1 for state in self._keys.values() if state.due is not None and state.due <= now)

    @property
    def oldest_wait_seconds(self) -> float:
        """How long the key that is overdue the longest has been waiting; 0 where none is."""
        now = self.clock()
        return max(
            (now - state.due for state in self._keys.values() if state.due is not None and state.due <= now),
            default=0.0,
        )

    def _spend(self, state: _Key, now: float) -> float:
        """Take a turn from the key's credit, which fills up with time; return the seconds until it may have another."""
        earned = self.burst if state.credit_at is None else (now - state.credit_at) / self.sustained_seconds
        state.credit, state.credit_at = min(self.burst, state.credit + earned) - 1, now
        return self.spacing_seconds if state.credit >= 1 else (1 - state.credit) * self.sustained_seconds

    def _end(self, key: K, after: float | None) -> None:
        state = self._keys[key]
        state.running = False
        if state.due is not None:
            state.due = max(state.due, state.not_before)
            self._push(key, state.due)
        if after is not None:
            self.add(key, after)

    def _push(self, key: K, due: float) -> None:
        heapq.heappush(self._heap, (due, next(self._sequence), key))
        self._wake.set()
