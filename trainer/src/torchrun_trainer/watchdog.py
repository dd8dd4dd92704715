"""Watchdog: says where a rank stands when it has made no step for long, before anybody restarts it.

The deadline comes from the collector of progress, which ends the round once it has passed; here three quarters of it
count, so that the stacks are in the log by then.
"""

from __future__ import annotations

import faulthandler
import os
import tempfile
import threading
import time

SHARE = 0.75
_LOOK_SECONDS = 1.0
_GRACE_SECONDS = 1.0
_STDERR = 2


class Watchdog:
    """Writes the stacks of all threads to standard error, once for each time that no step is made for too long.

    ``deadline`` is in seconds, 0 for none, and may be set at any time. ``alive`` costs less than a microsecond. Each
    line begins with the rank, since several ranks may share a log. A process whose main thread keeps Python's lock
    (in native code) is spoken for by a timer of ``faulthandler``, which needs no lock; its lines have no rank.
    """

    def __init__(self, rank: int, step: int) -> None:
        self.deadline = 0.0
        self._rank = rank
        self._step = step
        self._moved = time.monotonic()
        self._told = 0.0
        self._armed = 0.0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="torchrun-trainer-watchdog", daemon=True)
        self._thread.start()

    def alive(self, step: int) -> None:
        """Say that something gets on: ``step`` steps are done."""
        self._step = step
        self._moved = time.monotonic()

    def close(self) -> None:
        """Watch no longer."""
        self._closing.set()
        self._thread.join()
        self._disarm()

    def _watch(self) -> None:
        while not self._closing.wait(_LOOK_SECONDS):
            self._look(time.monotonic())

    def _look(self, now: float) -> None:
        moved, patience = self._moved, SHARE * self.deadline
        if not patience or moved == self._told:
            self._disarm()
        elif now - moved >= patience:
            self._disarm()
            self._told = moved
            self._tell(now - moved)
        elif moved != self._armed:
            self._armed = moved
            left = max(_LOOK_SECONDS, moved + patience - now) + _LOOK_SECONDS + _GRACE_SECONDS
            faulthandler.dump_traceback_later(left, file=_STDERR)

    def _disarm(self) -> None:
        if self._armed:
            self._armed = 0.0
            faulthandler.cancel_dump_traceback_later()

    def _tell(self, seconds: float) -> None:
        with tempfile.TemporaryFile() as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            stacks = file.read().decode(errors="replace").splitlines()
        head = f"no step for {seconds:.0f} s after step {self._step}; process {os.getpid()}, all threads:"
        for line in (head, *stacks, "end of the stacks"):
            os.write(_STDERR, f"[rank {self._rank}] {line}\n".encode())  # line by line: short writes are never mixed
