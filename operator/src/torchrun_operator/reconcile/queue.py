"""The queue of jobs to reconcile.

It holds each key at most once and gives it to one worker at a time. It keeps a minimum time between two turns of a key,
and a longer one after each failure.
"""

import asyncio
import contextlib
import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torchrun_operator.allowance import Allowance

K = TypeVar("K", bound=Hashable)

_BACKOFF_FIRST_SECONDS = 0.5
_BACKOFF_MOST_SECONDS = 60.0


class QueueClosed(Exception):  # noqa: N818 - no error: the end
    """The queue is closed and gives no more turns."""


@dataclass
class _Key:
    due: float | None = None
    """When its next turn is due. None: it does not wait for one."""
    running: bool = False
    not_before: float = 0.0
    turns: Allowance | None = None
    failures: int = 0


@dataclass
class WorkQueue(Generic[K]):
    """A queue that merges wake-ups of a key into turns.

    A key without recent turns gets `burst` turns at intervals of spacing_seconds, so that the operator reacts to a loss
    at once. It then gets one turn every sustained_seconds. All wake-ups in between share one turn: the thousand pod
    events of a start cost a few reconciles.

    The keys of a group share `turns_per_group` turns at the same time, so that slow turns of one group do not delay the
    keys of another.
    """

    clock: Callable[[], float]
    group_of: Callable[[K], Hashable] = lambda _key: None
    turns_per_group: int = 2**31
    spacing_seconds: float = 0.2
    sustained_seconds: float = 1.0
    burst: int = 3
    _keys: dict[K, _Key] = field(default_factory=dict)
    _heap: list[tuple[float, int, K]] = field(default_factory=list)
    _sequence: "itertools.count[int]" = field(default_factory=itertools.count)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _running: "Counter[Hashable]" = field(default_factory=Counter)
    """Turns that are under way, by group."""
    _held: dict[Hashable, deque[K]] = field(default_factory=dict)
    """Due keys of groups that have all their turns, by group."""
    _closed: bool = False

    def add(self, key: K, after: float = 0.0) -> None:
        """Ask for a turn in `after` seconds. A turn that is due earlier remains."""
        now = self.clock()
        state = self._keys.setdefault(key, _Key())
        due = max(now + after, state.not_before)
        if state.due is not None and state.due <= due:
            return
        state.due = due
        if not state.running:
            self._push(key, due)

    async def get(self) -> K:
        """Wait for the next turn. The worker must end it with done(), failed() or forget().

        Raises QueueClosed.
        """
        while not self._closed:
            now = self.clock()
            while self._heap and self._heap[0][0] <= now:
                due, _, key = heapq.heappop(self._heap)
                state = self._keys.get(key)
                if state is None or state.running or state.due != due:
                    continue  # superseded by an earlier or later entry
                group = self.group_of(key)
                if self._running[group] >= self.turns_per_group:
                    self._held.setdefault(group, deque()).append(key)
                    continue
                self._running[group] += 1
                state.due, state.running = None, True
                state.turns = state.turns or Allowance(self.burst, self.sustained_seconds)
                state.not_before = now + max(self.spacing_seconds, state.turns.spend(now))
                return key
            self._wake.clear()
            timeout = self._heap[0][0] - now if self._heap else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
        self._wake.set()  # so that the next waiter ends as well
        raise QueueClosed

    def close(self) -> None:
        """Give no more turns. Waiting calls of get() raise QueueClosed at once."""
        self._closed = True
        self._wake.set()

    def done(self, key: K, after: float | None = None, rest: float = 0.0) -> None:
        """End a turn that succeeded. Ask for the next one in `after` seconds; none begins within `rest` seconds."""
        state = self._keys[key]
        state.failures = 0
        state.not_before = max(state.not_before, self.clock() + rest)
        self._end(key, after)

    def failed(self, key: K) -> float:
        """End a turn that failed. Return the seconds until the next one, which grow with each failure."""
        state = self._keys[key]
        delay = float(min(_BACKOFF_MOST_SECONDS, _BACKOFF_FIRST_SECONDS * 2**state.failures))
        state.failures = min(state.failures + 1, 32)
        # A wake-up must not shorten the wait: each event would retry a broken job.
        state.not_before = self.clock() + delay
        state.due = None
        self._end(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """End the turn of a job that no longer exists."""
        self._end(key, None)
        if self._keys[key].due is None:
            del self._keys[key]

    @property
    def depth(self) -> int:
        """Number of keys that are due and wait for their turn."""
        now = self.clock()
        return sum(1 for state in self._keys.values() if state.due is not None and state.due <= now)

    @property
    def oldest_wait_seconds(self) -> float:
        """How long the key that waits longest has been due. 0: none is due."""
        now = self.clock()
        return max(
            (now - state.due for state in self._keys.values() if state.due is not None and state.due <= now),
            default=0.0,
        )

    def _end(self, key: K, after: float | None) -> None:
        state, group = self._keys[key], self.group_of(key)
        state.running = False
        self._running[group] -= 1
        if not self._running[group]:
            del self._running[group]
        if held := self._held.pop(group, None):
            waiting = held.popleft()
            if held:
                self._held[group] = held
            self._push(waiting, self._keys[waiting].due)
        if state.due is not None:
            state.due = max(state.due, state.not_before)
            self._push(key, state.due)
        if after is not None:
            self.add(key, after)

    def _push(self, key: K, due: float | None) -> None:
        assert due is not None
        heapq.heappush(self._heap, (due, next(self._sequence), key))
        self._wake.set()
