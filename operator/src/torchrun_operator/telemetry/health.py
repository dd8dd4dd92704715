"""Health: what must go on happening, and what the operator still waits for."""

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


class Liveness:
    """What must go on happening. Nothing here waits or raises, so it can be called from anywhere in the event loop.

    An event loop that is itself stuck cannot answer at all, which fails the probe as well.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heartbeats: dict[str, _Deadline] = {}
        self._working: dict[int, _Deadline] = {}
        self._failed: dict[str, str] = {}
        self._turns = itertools.count()

    def expect(self, name: str, within_seconds: float) -> None:
        """From now on `beat(name)` must come at least this often."""
        self._heartbeats[name] = _Deadline(name, within_seconds, self._clock())

    def beat(self, name: str) -> None:
        """Note a sign of life; one that nobody expects is ignored."""
        if (heartbeat := self._heartbeats.get(name)) is not None:
            heartbeat.last = self._clock()

    def forget(self, name: str) -> None:
        """Expect this heartbeat no longer."""
        self._heartbeats.pop(name, None)

    def fail(self, name: str, reason: str) -> None:
        """Report something as dead for good, such as a background task that ended: only a restart helps."""
        self._failed[name] = reason

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
        """Return what is wrong, a line for each; empty if all is well."""
        now = self._clock()
        lines = [f"{name}: {reason}" for name, reason in self._failed.items()]
        lines += [
            f"{beat.name}: no sign of life for {now - beat.last:.0f} s, expected within {beat.within_seconds:g} s"
            for beat in self._heartbeats.values()
            if now - beat.last > beat.within_seconds
        ]
        lines += [
            f"{work.name}: at work for {now - work.last:.0f} s, expected to take {work.within_seconds:g} s at most"
            for work in self._working.values()
            if now - work.last > work.within_seconds
        ]
        return lines


class Readiness:
    """What the operator still waits for before it is of use; ready when nothing is left."""

    def __init__(self, awaited: Iterable[str] = ()) -> None:
        self._awaited = dict.fromkeys(awaited)

    @property
    def awaited(self) -> tuple[str, ...]:
        """The names still awaited, in the order they were given."""
        return tuple(self._awaited)

    def wait_for(self, name: str) -> None:
        """Be unready until `reached(name)`."""
        self._awaited[name] = None

    def reached(self, name: str) -> None:
        """Strike a name off; one that is not awaited is ignored."""
        self._awaited.pop(name, None)
