"""A run whose loop belongs to a framework: the base of the adapters for Lightning and transformers."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from torch import Tensor

from torchrun_trainer.launch.fault_tolerance import refuse
from torchrun_trainer.snapshots.saver import NoSaver
from torchrun_trainer.snapshots.snapshot import Snapshot
from torchrun_trainer.stepping.stepper import Stepper, join
from torchrun_trainer.stepping.world import FixedWorld


class Driven:
    """Watches, drains and reports the steps of a framework, which takes the snapshots itself.

    ``begin`` before the first step, ``advance`` after each one, on every rank. When that returns True, the ranks have
    agreed to stop: save, without hurry, then ``leave``. ``close`` when the training ends in another way.

    Raises LaunchError as ``check_launch`` does.
    """

    def __init__(self, *, report_seconds: float = 1.0, drain_seconds: float = 60.0) -> None:
        refuse("a framework with a loop of its own")
        self._saver = NoSaver()
        self._stepper = Stepper(
            FixedWorld(join()), self._saver, report_seconds=report_seconds, drain_seconds=drain_seconds
        )
        self._stopping = False
        self._saving = ExitStack()

    def begin(self, step: int, total_steps: int) -> None:
        """Start at this step. Call it in the main thread."""
        self.close()
        self._stepper.step = step
        self._stepper.begin(total_steps)
        self._end_if_finished()

    def advance(self) -> bool:
        """Note that a step has ended; return on every rank whether to save and leave now."""
        if self._stopping or self._stepper.finished:
            return self._stopping
        self._stopping = self._stepper.step_done()
        if self._stopping:
            self._saving.enter_context(self._stepper.saving())
        else:
            self._end_if_finished()
        return self._stopping

    def report(self, *, loss: float | Tensor | None = None, samples: int = 0, epoch: int | None = None) -> None:
        """Report how the current step went; see ``Run.report``."""
        self._stepper.report(loss=loss, samples=samples, epoch=epoch)

    def alive(self) -> None:
        """Report that this rank makes progress outside of a step; see ``Run.alive``."""
        self._stepper.alive()

    def saved(self, path: Path) -> None:
        """Note that the framework has saved a snapshot of the current step."""
        self._saver.newest = Snapshot(str(path), self._stepper.step, datetime.now(tz=UTC))

    def leave(self) -> None:
        """End this process once its own SIGTERM has come: raise SystemExit. Nothing happens unless it has to stop."""
        self._saving.close()
        if self._stopping:
            self._stepper.leave()

    def close(self) -> None:
        """Stop what watches the steps."""
        self._saving.close()
        self._stopping = False
        self._stepper.end(completed=False)

    def _end_if_finished(self) -> None:
        if self._stepper.finished:
            self._stepper.end(completed=True)
