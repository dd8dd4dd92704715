"""Health: what must keep happening, and what the operator still waits for."""

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
    """What must keep happening. Nothing here waits or raises, so the event loop can call it from anywhere.

    An event loop that hangs cannot answer at all, which fails the probe as well.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beats: dict[str, _Deadline] = {}
        self._followed: list[_Heartbeat] = []
        self._working: dict[int, _Deadline] = {}
        self._turns = itertools.count()

    def expect(self, name: str, within_seconds: float) -> None:
        """From now on `beat(name)` must come at least this often."""
        self._beats[name] = _Deadline(name, within_seconds, self._clock())

    def beat(self, name: str) -> None:
        """Record a heartbeat; one that nothing expects is ignored."""
        if (heartbeat := self._beats.get(name)) is not None:
            heartbeat.last = self._clock()

    def follow(self, name: str, within_seconds: float, silent_seconds: Callable[[], float]) -> None:
        """From now on `silent_seconds()`, the time since the last heartbeat, must not exceed this."""
        self._followed.append(_Heartbeat(name, within_seconds, silent_seconds))

    @contextmanager
    def working(self, name: str, within_seconds: float) -> Iterator[None]:
        """Expect the work inside to end in this time; any number of pieces of work may have the same name."""
        turn = next(self._turns)
        self._working[turn] = _Deadline(name, within_seconds, self._clock())
        try:
            yield
        finally:
            del self._working[turn]

    def stuck(self) -> list[str]:
        """Return what is wrong, one line each; empty if all is well."""
        now = self._clock()
        beats = [(beat.name, beat.within_seconds, now - beat.last) for beat in self._beats.values()]
        beats += [(beat.name, beat.within_seconds, beat.silent_seconds()) for beat in self._followed]
        lines = [
            f"{name}: no heartbeat for {silent:.0f} s, expected within {within:g} s"
            for name, within, silent in beats
            if silent > within
        ]
        lines += [
            f"{work.name}: at work for {now - work.last:.0f} s, expected to take {work.within_seconds:g} s at most"
            for work in self._working.values()
            if now - work.last > work.within_seconds
        ]
        return lines


def _nothing() -> list[str]:
    return []


class Readiness:
    """What the operator still waits for before it is of use; ready when nothing is left."""

    def __init__(
        self,
        awaited: Iterable[str] = (),
        others: Callable[[], list[str]] = _nothing,
        notes: Callable[[], list[str]] = _nothing,
    ) -> None:
        """`awaited` are names that `reached()` strikes off, `others()` more of them, asked for each time."""
        self._awaited = dict.fromkeys(awaited)
        self._others = others
        self.notes = notes
        """Lines worth knowing that do not keep the operator from being ready."""

    @property
    def awaited(self) -> tuple[str, ...]:
        """The names still awaited, in the order they were given."""
        return (*self._awaited, *self._others())

    def reached(self, name: str) -> None:
        """Strike a name off; one that is not awaited is ignored."""
        self._awaited.pop(name, None)
