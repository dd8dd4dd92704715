"""Watchdog: logs the stack of a rank that has made no step for long, before the operator restarts it.

The collector of progress sets the deadline, and ends the round once it has passed. The watchdog acts after three
quarters of it, so that the stacks are in the log by then.
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
    """Writes the stacks of all threads to standard error, once for each time that a step takes too long.

    ``deadline`` is in seconds, 0 for none, and may change at any time. ``alive`` costs less than a microsecond. Each
    line begins with the rank, since several ranks may share a log. If the main thread keeps Python's lock in native
    code, a timer of ``faulthandler`` writes instead, which needs no lock; its lines have no rank.
    """

    def __init__(self, rank: int, step: int) -> None:
        self.deadline = 0.0
        self._rank = rank
        self._step = step
        self._moved = time.monotonic()
        self._reported = 0.0
        self._armed = 0.0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="torchrun-trainer-watchdog", daemon=True)
        self._thread.start()

    def alive(self, step: int) -> None:
        """Note that the rank makes progress: ``step`` steps are done."""
        self._step = step
        self._moved = time.monotonic()

    def close(self) -> None:
        """Stop watching."""
        self._closing.set()
        self._thread.join()
        self._disarm()

    def _watch(self) -> None:
        while not self._closing.wait(_LOOK_SECONDS):
            self._look(time.monotonic())

    def _look(self, now: float) -> None:
        moved, patience = self._moved, SHARE * self.deadline
        if not patience or moved == self._reported:
            self._disarm()
        elif now - moved >= patience:
            self._disarm()
            self._reported = moved
            self._write_stacks(now - moved)
        elif moved != self._armed:
            self._armed = moved
            left = max(_LOOK_SECONDS, moved + patience - now) + _LOOK_SECONDS + _GRACE_SECONDS
            faulthandler.dump_traceback_later(left, file=_STDERR)

    def _disarm(self) -> None:
        if self._armed:
            self._armed = 0.0
            faulthandler.cancel_dump_traceback_later()

    def _write_stacks(self, seconds: float) -> None:
        with tempfile.TemporaryFile() as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            stacks = file.read().decode(errors="replace").splitlines()
        head = f"no step for {seconds:.0f} s after step {self._step}; process {os.getpid()}, all threads:"
        for line in (head, *stacks, "end of the stacks"):
            os.write(_STDERR, f"[rank {self._rank}] {line}\n".encode())  # short writes of several ranks never mix
