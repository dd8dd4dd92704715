"""A run whose loop belongs to somebody else: what the adapters for Lightning and transformers are made of."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from torchrun_trainer.run import Run
from torchrun_trainer.snapshot import Snapshot
from torchrun_trainer.termination import Termination


class Driven(Run):
    """A ``Run`` that saves nothing itself and is told when a step has ended.

    ``begin`` before the first step, ``advance`` after each, on every rank; when that returns True the ranks have agreed
    to stop: save, which may take its time, then ``leave``. ``close`` when the training has ended otherwise.
    """

    def __init__(self, *, report_seconds: float = 1.0, drain_seconds: float = 60.0) -> None:
        super().__init__("", report_seconds=report_seconds, drain_seconds=drain_seconds)
        self._pending: Iterator[int] = iter(())
        self._draining: Termination | None = None
        self._unhurried = ExitStack()
        self._saved: Snapshot | None = None

    @property
    def snapshot(self) -> Snapshot | None:
        """The newest of which ``saved`` was told."""
        return self._saved

    def begin(self, step: int, total_steps: int) -> None:
        """Start at this step; to be called in the main thread."""
        self.close()
        self.step = step
        self._pending = self.steps(total_steps)
        next(self._pending, None)

    def advance(self) -> bool:
        """Say that a step has ended; return on every rank whether to save and leave now."""
        next(self._pending, None)
        return self._draining is not None

    def saved(self, path: Path) -> None:
        """Say that there is a snapshot of the current step."""
        self._saved = Snapshot(str(path), self.step, datetime.now(tz=UTC))

    def leave(self) -> None:
        """End this process once its own SIGTERM has come; raises SystemExit."""
        self._unhurried.close()
        if self._draining:
            super()._leave(self._draining)

    def close(self) -> None:
        """Stop what watches the steps."""
        self._unhurried.close()
        if isinstance(self._pending, Generator):
            self._pending.close()

    def _leave(self, termination: Termination) -> None:
        """Put the leaving off until the framework has saved."""
        self._draining = termination
        self._unhurried.enter_context(termination.saving())
