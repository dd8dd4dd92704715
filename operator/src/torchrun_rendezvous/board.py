"""What HTTP and the driver share: the current state document and target."""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from torchrun_rendezvous import clock, report
from torchrun_rendezvous.logs import log
from torchrun_rendezvous.memory import Memory
from torchrun_rendezvous.pace import Stopwatch
from torchrun_rendezvous.protocol import Progress, RendezvousState, Target
from torchrun_rendezvous.view import View

STALE_SECONDS = 15.0
"""/healthz fails if no tick succeeds for this long."""
PROGRESS_SECONDS = 2.0
"""New progress wakes the operator at most this often."""
READY_SECONDS = 5.0
"""How long a request waits for a host that is not ready, before it is refused."""
LOOK_SECONDS = 1.0
"""How often a long poll checks whether its client is still connected."""


class NotReadyError(Exception):
    """It is not known yet whether this host continues what another one began."""


class Board:
    """Guarded by one condition, on which long polls wait. Any thread may call any method.

    For ``seek_seconds`` after the start of the store, agents that have outlived another host can bring its state. The
    operator learns nothing before: this host is the same instance then, for which nothing has happened.
    """

    def __init__(self, seek_seconds: float = 0.0) -> None:
        self.wake = threading.Event()
        """Set when the driver should decide at once."""
        self.target: Target | None = None
        """The target of the driver."""
        self._changed = threading.Condition()
        self._memory = Memory()
        self._watch = Stopwatch()
        first = RendezvousState(secrets.token_hex(8), version=1, pace=self._watch.pace(None))
        self._state = report.described(first, View(), self._memory, None)
        self._shown_progress: tuple[Progress | None, float] = (None, -math.inf)
        self._seek_seconds = seek_seconds
        self._up_at = math.inf
        self._ready = False
        self._ticked = -math.inf
        self._operator_heard = time.monotonic()
        self._restored = 0

    @property
    def instance(self) -> str:
        """The instance of the state document."""
        with self._changed:
            return self._state.instance

    @property
    def version(self) -> int:
        """The version of the state document."""
        with self._changed:
            return self._state.version

    def take_over(self, instance: str, version: int) -> bool:
        """Become another instance, unless the operator has seen this one. Return whether that is so."""
        with self._changed:
            if not self._ready:
                self._state = replace(self._state, instance=instance, version=version)
                self._ready = True
            return self._state.instance == instance

    def put(self, target: Target) -> RendezvousState:
        """Accept a new target and return the state. Raises NotReadyError."""
        with self._changed:
            self._require_ready()
            if target != self._state.target:
                earlier = target.end_round is not None and target.end_round.instance != self._state.instance
                self.target = replace(target, end_round=None) if earlier else target
                self._state = replace(self._state, target=target)
                self._bump()
                self.wake.set()
            return self._state

    def report(self, progress: Progress) -> dict[str, object]:
        """Store the report of a worker, and return the answer."""
        with self._changed:
            self._state = replace(self._state, progress=progress)
            self._watch = self._watch.reported(progress, clock.now())
            self._show_progress()
            return {"progressDeadlineSeconds": self.target.progress_deadline_seconds if self.target else None}

    def publish(self, view: View, memory: Memory, target: Target | None) -> None:
        """Store the result of a tick of the driver."""
        with self._changed:
            now = time.monotonic()
            self._up_at = min(self._up_at, now)
            if view.listed() or now - self._up_at >= self._seek_seconds:
                self._ready = True
                self._changed.notify_all()
            running = None if view.finished or view.closed else memory.running
            self._watch = self._watch.ticked(running, now - self._ticked, clock.now())
            self._ticked = now
            self._memory = memory
            state = report.described(self._state, view, memory, target)
            state = replace(state, pace=self._watch.pace(target))
            if state.closed and not self._state.closed:
                log({"event": "closed", "round": state.round})
            if state != self._state:
                self._state = state
                self._bump()
            self._show_progress()

    def restored(self) -> None:
        """Count a state in the store that torch did not write."""
        with self._changed:
            self._restored += 1

    def wait(self, after: int, timeout: float, connected: Callable[[], bool]) -> RendezvousState:
        """Return the state once its version is above ``after``, or when ``timeout`` seconds have passed.

        The operator counts as up while it waits for the answer. Raises NotReadyError.
        """
        end = time.monotonic() + timeout
        with self._changed:
            self._require_ready()
            while connected():
                self._operator_heard = now = time.monotonic()
                if self._state.version > after or now >= end:
                    break
                self._changed.wait_for(lambda: self._state.version > after, min(LOOK_SECONDS, end - now))
            return self._state

    def operator_silence(self) -> float:
        """Return the seconds since the last request of the operator, or since the start."""
        with self._changed:
            return time.monotonic() - self._operator_heard

    def healthy(self) -> bool:
        """Whether the store is up and was read recently."""
        with self._changed:
            return time.monotonic() - self._ticked < STALE_SECONDS

    def metrics(self) -> str:
        """Return the metrics in Prometheus' text format."""
        silence = round(self.operator_silence(), 3)
        with self._changed:
            state, memory, watch, restored = self._state, self._memory, self._watch, self._restored
        return report.metrics(state, memory, without_step=watch.shown, operator_silence=silence, restored=restored)

    def _require_ready(self) -> None:
        self._operator_heard = time.monotonic()
        if not self._changed.wait_for(lambda: self._ready, READY_SECONDS):
            raise NotReadyError("the store is not up")
        self._operator_heard = time.monotonic()

    def _show_progress(self) -> None:
        shown, at = self._shown_progress
        now = time.monotonic()
        if self._state.progress is not shown and now - at >= PROGRESS_SECONDS:
            self._shown_progress = (self._state.progress, now)
            self._bump()

    def _bump(self) -> None:
        self._state = replace(self._state, version=self._state.version + 1)
        self._changed.notify_all()
