"""Health: the heartbeats that the liveness probe checks, and what the readiness probe waits for."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class _Deadline:
    name: str
    within_seconds: float
    last: float


@dataclass
class _Heartbeat:
    name: str
    within_seconds: float
    silent_seconds: Callable[[], float]


class Liveness:
    """What must keep happening. No method waits or raises, so any code of the event loop can call them.

    An event loop that hangs does not answer the probe, which fails the probe as well.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beats: dict[str, _Deadline] = {}
        self._followed: list[_Heartbeat] = []
        self._working: dict[int, _Deadline] = {}
        self._turns = itertools.count()

    def expect(self, name: str, within_seconds: float) -> None:
        """Require a call of `beat(name)` at least this often from now on."""
        self._beats[name] = _Deadline(name, within_seconds, self._clock())

    def beat(self, name: str) -> None:
        """Record a heartbeat. Ignores a name that expect() does not know."""
        if (heartbeat := self._beats.get(name)) is not None:
            heartbeat.last = self._clock()

    def follow(self, name: str, within_seconds: float, silent_seconds: Callable[[], float]) -> None:
        """Require from now on that `silent_seconds()`, the time since the last heartbeat, is at most this."""
        self._followed.append(_Heartbeat(name, within_seconds, silent_seconds))

    @contextmanager
    def working(self, name: str, within_seconds: float) -> Iterator[None]:
        """Require the block to end within this time. Several blocks may have the same name."""
        turn = next(self._turns)
        self._working[turn] = _Deadline(name, within_seconds, self._clock())
        try:
            yield
        finally:
            del self._working[turn]

    def stuck(self) -> list[str]:
        """Return one line for each problem."""
        now = self._clock()
        beats = [(beat.name, beat.within_seconds, now - beat.last) for beat in self._beats.values()]
        beats += [(beat.name, beat.within_seconds, beat.silent_seconds()) for beat in self._followed]
        lines = [
            f"{name}: no heartbeat for {silent:.0f} s, expected within {within:g} s"
            for name, within, silent in beats
            if silent > within
        ]
        lines += [
            f"{work.name}: runs for {now - work.last:.0f} s, must end within {work.within_seconds:g} s"
            for work in self._working.values()
            if now - work.last > work.within_seconds
        ]
        return lines


def _nothing() -> list[str]:
    return []


class Readiness:
    """What the operator waits for before it is ready."""

    def __init__(
        self,
        awaited: Iterable[str] = (),
        others: Callable[[], list[str]] = _nothing,
        notes: Callable[[], list[str]] = _nothing,
    ) -> None:
        """`reached()` removes a name from `awaited`. Each check of readiness calls `others()` for further names."""
        self._awaited = dict.fromkeys(awaited)
        self._others = others
        self.notes = notes
        """Further lines for /readyz. They do not affect readiness."""

    @property
    def awaited(self) -> tuple[str, ...]:
        """What the operator still waits for, in the given order."""
        return (*self._awaited, *self._others())

    def reached(self, name: str) -> None:
        """Remove a name from those that the operator waits for. Ignores other names."""
        self._awaited.pop(name, None)
