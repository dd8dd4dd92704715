"""Termination: turns SIGTERM into "stop at the end of this step", and makes sure that the process then does stop.

torchrun's agent sends SIGTERM to its workers whenever the membership changes, waits 30 s and kills. A worker that can
finish its step leaves nothing behind; one that waits in a collective for a peer that has gone never will, and Python
runs signal handlers only between its own instructions. So the signal is also taken by a thread, which ends the process
if the step has not ended in good time.

The signal is put off, not swallowed: once the loop is left, the process dies of it in its last moment, after the
script's own clean-up and before the interpreter spends a second or two on taking PyTorch apart.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

EXIT_CODE = 128 + signal.SIGTERM
_PATIENCE_SECONDS = 2.0
_PATIENCE_STEPS = 3.0


class Termination:
    """Context in which SIGTERM sets ``requested``. Enter it in the main thread.

    Call ``step_done`` at the end of each step. After SIGTERM the process ends itself with exit code 143 when a step has
    lasted 2 s plus three times the slowest one so far, since it began or was last said to be ``alive``, except while
    ``saving`` or ``busy``.
    A handler that was installed before is called too; processes forked from this one get the default behaviour.
    """

    def __init__(self, busy: Callable[[], bool] | None = None) -> None:
        self.requested = False
        self._busy = busy or bool
        self._received = threading.Event()
        self._closing = False
        self._saving = False
        self._slowest = 0.0
        self._began = time.monotonic()
        self._previous: signal._HANDLER = None
        self._previous_descriptor = -1
        self._pipe = (-1, -1)

    def __enter__(self) -> Termination:
        self._pipe = os.pipe()
        for end in self._pipe:
            os.set_blocking(end, end == self._pipe[0])
        self._previous = signal.signal(signal.SIGTERM, self._handle)
        self._previous_descriptor = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        _active.append(self)
        self._thread = threading.Thread(target=self._watch, name="torchrun-trainer-termination", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _active.remove(self)
        self.restore_handler()
        self._closing = True
        os.write(self._pipe[1], b"\0")
        self._thread.join()
        for end in self._pipe:
            os.close(end)
        if self.requested and error is None:
            os.kill(os.getpid(), signal.SIGTERM)  # it came after the last step's agreement

    def restore_handler(self) -> None:
        """Have SIGTERM do again what it did before."""
        signal.set_wakeup_fd(self._previous_descriptor)
        signal.signal(signal.SIGTERM, self._previous)

    def step_done(self) -> None:
        """Say that a step has ended, together with what the ranks agree on after it."""
        now = time.monotonic()
        self._slowest = max(self._slowest, now - self._began)
        self._began = now

    def alive(self) -> None:
        """Say that the step gets on: it waits for nobody."""
        self._began = time.monotonic()

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Let the process live, however long the snapshot takes (the agent kills it in the end)."""
        self._saving = True
        try:
            yield
        finally:
            self._began = time.monotonic()
            self._saving = False

    def wait(self, seconds: float) -> bool:
        """Wait for SIGTERM, at most so long; return whether it has come."""
        return self._received.wait(seconds)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.requested = True
        _put_off.set()
        if callable(self._previous):
            self._previous(signum, frame)

    def _watch(self) -> None:
        """Read the numbers of the signals that arrive; the interpreter writes them even while the main thread waits."""
        while not self._closing:
            if signal.SIGTERM in os.read(self._pipe[0], 64):
                self._received.set()
                self._end_in_good_time(time.monotonic())

    def _end_in_good_time(self, received: float) -> None:
        """Return when the loop has been left, else end the process."""
        while not self._closing:
            patience = _PATIENCE_SECONDS + _PATIENCE_STEPS * self._slowest
            if not self._saving and not self._busy() and time.monotonic() > max(received, self._began) + patience:
                os._exit(EXIT_CODE)
            time.sleep(0.05)


_active: list[Termination] = []
_put_off = threading.Event()


def _reset_in_child() -> None:
    """Have a forked process, such as a data loader's worker, die of SIGTERM and leave its parent's pipe alone."""
    _put_off.clear()
    if _active:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _active.clear()


def _die_of_it() -> None:
    """Let a SIGTERM that was put off, or one that comes from now on, take effect.

    An error in the loop's body ends the script with the handler still in place: nothing tells a generator that its
    consumer has failed.
    """
    for termination in _active:
        termination.restore_handler()
    if _put_off.is_set() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        sys.stdout.flush()
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGTERM)


os.register_at_fork(after_in_child=_reset_in_child)
# Handlers run in reverse order: registered on import, this one comes after those of the script and most libraries.
atexit.register(_die_of_it)
