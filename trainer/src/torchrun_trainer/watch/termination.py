"""Termination: turns SIGTERM into "stop at the end of this step", and ends the process if that step does not end.

torchrun's agent sends SIGTERM to its workers whenever the membership changes, waits 30 s and kills them. A worker that
can finish its step does so and leaves nothing behind. A worker that waits in a collective for a lost rank never
finishes, and Python runs signal handlers only between its own instructions. So a thread also receives the signal, and
ends the process if the step takes too long.

The signal is deferred, not swallowed: after the loop the process dies of it at the very end, after the script's own
clean-up and before the interpreter spends a second or two on tearing PyTorch down.
"""

from __future__ import annotations

import atexit
import functools
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

    Call ``step_done`` at the end of each step. After SIGTERM the process exits with code 143 once a step has lasted 2 s
    plus three times the slowest step so far, counted from its start or from the last call of ``alive``. It does not
    while ``saving`` or ``busy``. A handler that was installed before is called too. Forked processes get the default
    behaviour.
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
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(deliver=error is None)

    def open(self) -> None:
        """Take SIGTERM over."""
        die_at_exit()
        self._pipe = os.pipe()
        for end in self._pipe:
            os.set_blocking(end, end == self._pipe[0])
        self._previous = signal.signal(signal.SIGTERM, self._handle)
        self._previous_descriptor = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        _active.append(self)
        self._thread = threading.Thread(target=self._watch, name="torchrun-trainer-termination", daemon=True)
        self._thread.start()

    def close(self, *, deliver: bool) -> None:
        """Restore the handler. ``deliver`` a SIGTERM that came after the last step's agreement."""
        _active.remove(self)
        self.restore_handler()
        self._closing = True
        os.write(self._pipe[1], b"\0")
        self._thread.join()
        for end in self._pipe:
            os.close(end)
        if self.requested and deliver:
            os.kill(os.getpid(), signal.SIGTERM)

    def restore_handler(self) -> None:
        """Give SIGTERM its previous handler back."""
        signal.set_wakeup_fd(self._previous_descriptor)
        signal.signal(signal.SIGTERM, self._previous)

    def step_done(self) -> None:
        """Note that a step has ended, including the agreement of the ranks after it."""
        now = time.monotonic()
        self._slowest = max(self._slowest, now - self._began)
        self._began = now

    def alive(self) -> None:
        """Record that the step makes progress and waits for no other rank."""
        self._began = time.monotonic()

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Keep the process alive however long the snapshot takes (the agent kills it in the end)."""
        self._saving = True
        try:
            yield
        finally:
            self._began = time.monotonic()
            self._saving = False

    def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for SIGTERM; return whether it has come."""
        return self._received.wait(seconds)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.requested = True
        _deferred.set()
        if callable(self._previous):
            self._previous(signum, frame)

    def _watch(self) -> None:
        """Read the numbers of arriving signals: the interpreter writes them even while the main thread waits."""
        while not self._closing:
            if signal.SIGTERM in os.read(self._pipe[0], 64):
                self._received.set()
                self._end_in_time(time.monotonic())

    def _end_in_time(self, received: float) -> None:
        """Return once the loop has ended; end the process if that takes too long."""
        while not self._closing:
            patience = _PATIENCE_SECONDS + _PATIENCE_STEPS * self._slowest
            if not self._saving and not self._busy() and time.monotonic() > max(received, self._began) + patience:
                os._exit(EXIT_CODE)
            time.sleep(0.05)


_active: list[Termination] = []
_deferred = threading.Event()


@functools.cache
def die_at_exit() -> None:
    """Have the process die of a deferred SIGTERM at its very end. Only the first call has an effect.

    Call it early: exit handlers run in reverse order, and this one belongs behind those of the script and most
    libraries.
    """
    os.register_at_fork(after_in_child=_reset_in_child)
    atexit.register(_die)


def _reset_in_child() -> None:
    """Let a forked process, such as a data loader's worker, die of SIGTERM without touching its parent's pipe."""
    _deferred.clear()
    if _active:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _active.clear()


def _die() -> None:
    """Let a deferred SIGTERM, or one that comes from now on, take effect.

    An error in the loop's body ends the script with the handler still in place: a generator does not learn that its
    consumer has failed.
    """
    for termination in _active:
        termination.restore_handler()
    if _deferred.is_set() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        sys.stdout.flush()
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGTERM)
