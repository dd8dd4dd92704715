"""The run: counts steps, continues where a snapshot left off, stops on all ranks at the same step, reports."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from torchrun_trainer.checks import check_launch
from torchrun_trainer.errorfile import record_errors
from torchrun_trainer.loop import Loop, MicroBatches
from torchrun_trainer.progress import Progress, Publisher, event, say
from torchrun_trainer.saver import Saver, Stateful
from torchrun_trainer.snapshot import Snapshot
from torchrun_trainer.stacks import answer_signal
from torchrun_trainer.straggler import Stragglers
from torchrun_trainer.termination import EXIT_CODE, Termination
from torchrun_trainer.tracking import trackers
from torchrun_trainer.watchdog import Watchdog
from torchrun_trainer.world import rank_and_size

logger = logging.getLogger(__name__)

SNAPSHOT_PATH_VARIABLE = "TORCHRUN_SNAPSHOT_PATH"
PROGRESS_URL_VARIABLE = "TORCHRUN_PROGRESS_URL"
_BEAT_SECONDS = 1.0


class _Agreement(NamedTuple):
    """What the ranks agree on after a step: whether to stop, whether it was the best, whether to report."""

    stop: bool
    improved: bool
    report: bool


class Run:
    """A training run that survives restarts, whatever the number of workers.

    Create it on every rank, after ``init_process_group`` (which a run in one process can do without) and after the
    objects given as ``state``: each is restored from the newest snapshot, if there is one. ``step`` is the number of
    steps done. DistributedDataParallel is looked through: a snapshot holds the plain module's state. The states of the
    random number generators are saved with it, and restored when the steps begin.

    Args:
        snapshot_path: directory that all nodes share, file (``snapshot.pth``), or URL (``s3://bucket/path``); without
            it, that of the environment variable TORCHRUN_SNAPSHOT_PATH; without both, or when empty, nothing is saved.
        snapshot_every: steps between two snapshots; there is always one after the last step and one before leaving.
        keep: snapshots kept.
        keep_best: a figure given to ``report``, such as "accuracy": a step in which it is higher than ever ("-loss":
            lower) ends with a snapshot, which is kept besides the newest ones until there is a better one.
        report_seconds: time between two lines of progress.
        drain_seconds: how long a rank waits for its own SIGTERM after the ranks have agreed to stop.
        track: what else shows each line of progress, one or several of "tensorboard", "tensorboard:DIRECTORY", "wandb"
            and "wandb:[ENTITY/]PROJECT"; as one run across restarts.
        state: what a snapshot holds, by name.

    Raises:
        LaunchError: the process group is missing, or not what torchrun has started (see ``check_launch``).
        SnapshotError: there are snapshots, but none that can be read or that fits ``state``; ``state`` cannot be
            saved; snapshots cannot be written there; another run that is alive writes there.
        ValueError: an argument is out of range, or the snapshot is of other GlobalBatches.
        ImportError: what ``track`` needs is not installed.

    """

    def __init__(
        self,
        snapshot_path: str | Path | None = None,
        *,
        snapshot_every: int = 100,
        keep: int = 2,
        keep_best: str | None = None,
        report_seconds: float = 1.0,
        drain_seconds: float = 60.0,
        track: str | Sequence[str] = (),
        **state: Stateful,
    ) -> None:
        if snapshot_every < 1:
            raise ValueError(f"snapshot_every is {snapshot_every}; it must be at least 1")
        check_launch()
        answer_signal()
        path = path_or_default(snapshot_path)
        self.step = 0
        self.rank, self.world_size = rank_and_size()
        self._snapshot_every = snapshot_every
        self._report_seconds = report_seconds
        self._drain_seconds = drain_seconds
        self._device = _collective_device()
        self._loss: float | Tensor | None = None
        self._epoch: int | None = None
        self._metrics: dict[str, float | Tensor] = {}
        self._samples = 0
        self._reported = 0.0
        self._beat = 0
        self._beaten = 0.0
        self._progress: Progress | None = None
        self._publisher: Publisher | None = None
        self._watchdog: Watchdog | None = None
        self._termination: Termination | None = None
        self._stragglers = Stragglers(self.world_size, self._device)
        self._models = [stateful for stateful in state.values() if isinstance(stateful, DistributedDataParallel)]
        plain = {name: _plain(stateful) for name, stateful in state.items()}
        self._saver = Saver(path, plain, keep=keep, keep_best=keep_best, device=self._device) if path else None
        if self._saver:
            self.step = self._saver.restore()
        self._loop = Loop(self, state.values())
        self._trackers = trackers(track, path, self.step)

    @property
    def snapshot(self) -> Snapshot | None:
        """The newest snapshot that is complete, on rank 0."""
        return self._saver.newest if self._saver else None

    def steps(self, total_steps: int) -> Generator[int]:
        """Yield the number of each step still to do, from 0; do the step in the loop's body, on every rank.

        After each step the ranks agree whether one of them has received SIGTERM. If so, rank 0 saves a snapshot, every
        rank waits for its own SIGTERM (leaving earlier would look like success or failure of its own to torchrun) and
        leaves with SystemExit, code 143: it dies of SIGTERM once the script has cleaned up. Call it in the main thread.
        """
        if self.rank == 0:
            event("start", at=self.step, world=self.world_size)
        first = self.step
        self._begin()
        try:
            with Termination(self._saver.busy if self._saver else None) as termination:
                self._termination = termination
                while self.step < total_steps:
                    yield self.step
                    self.step += 1
                    agreed = self._agree(termination.requested)
                    termination.step_done()
                    with termination.saving():
                        self._save(improved=agreed.improved, last=agreed.stop or self.step == total_steps)
                    if agreed.report or agreed.stop or self.step in (first + 1, total_steps):
                        self._report(total_steps)
                    if agreed.stop:
                        self._leave(termination)
        finally:
            self._end()

    def epochs(self, total_epochs: int) -> Iterator[int]:
        """Yield the number of each epoch still to do, from 0; take its steps from ``batches`` or ``accumulate``.

        Like ``steps`` for scripts that loop over epochs; ``state`` must have GlobalBatches. What follows the steps in
        the body (an evaluation, a scheduler's step) is done again after a restart from a snapshot of before.

        Raises:
            ValueError: the state has no GlobalBatches, or several.
            RuntimeError: the body has left steps of its epoch undone.

        """
        return self._loop.epochs(total_epochs)

    def batches(self, loader: DataLoader[Any], total_steps: int | None = None) -> Iterator[Any]:
        """Yield this rank's share of the batch of each step: up to the epoch's end, or outside of ``epochs`` all steps.

        The body does the step, with ``weigh(loss).backward()``. Loss, samples and epoch are reported by themselves.

        Args:
            loader: a DataLoader made with ``GlobalBatches.sampler`` or ``stream``, of the GlobalBatches in ``state``.
            total_steps: how many steps there are, outside of ``epochs``.

        Raises:
            TypeError, ValueError: the loader is not such a one, or splits shares: see ``accumulate``.

        """
        return self._loop.batches(loader, total_steps)

    def accumulate(self, loader: DataLoader[Any], total_steps: int | None = None) -> Iterator[MicroBatches]:
        """Yield for each step this rank's micro-batches, to be gone through to the end: gradients add up over them.

        Of the models in ``state`` gradients are synchronized with the last one only. Otherwise as ``batches``.
        """
        return self._loop.accumulate(loader, total_steps)

    def weigh(self, loss: Tensor) -> Tensor:
        """Weigh the mean loss of the current (micro-)batch, so that each sample of the step counts alike.

        DistributedDataParallel and FSDP average gradients over the ranks, whose shares may differ in size. So the
        weight is the number of samples times the world size, divided by the size of the whole batch.
        """
        return self._loop.weigh(loss)

    def report(
        self,
        *,
        loss: float | Tensor | None = None,
        samples: int = 0,
        epoch: int | None = None,
        **metrics: float | Tensor,
    ) -> None:
        """Say how the current step went; shown with the next line of progress. To be called on all ranks, or on rank 0.

        Args:
            loss: this rank's loss, to be averaged over the ranks that give one; a tensor is read (which waits for a
                GPU) only when a line is due.
            samples: how many samples all ranks together have taken in this step.
            epoch: the epoch the step belongs to.
            metrics: more figures of rank 0, for ``keep_best`` and what is named in ``track``.

        Raises:
            ValueError, TypeError: a metric is not a single number.

        """
        if self._saver:
            self._saver.rate(loss=loss, **metrics)
        if loss is not None:
            self._loss = loss.detach() if isinstance(loss, Tensor) else loss
        if epoch is not None:
            self._epoch = epoch
        self._samples += samples
        for name, value in metrics.items():
            if isinstance(value, Tensor) and value.numel() != 1:
                raise ValueError(f"{name} has {value.numel()} values; report one number")
            self._metrics[name] = value.detach() if isinstance(value, Tensor) else float(value)

    def alive(self) -> None:
        """Say that this rank gets on with something that is no step, so that nobody takes it to hang.

        To be called now and then, on every rank, in an evaluation or another long piece of work between two steps.
        A process that was told to stop waits for it: without, it ends after 2 s and three times the time of a step, and
        what was done since the last snapshot is lost. Costs a few microseconds.
        """
        if self._termination:
            self._termination.alive()
        if self._watchdog:
            self._watchdog.alive(self.step)
        if self._publisher and self._progress and time.monotonic() - self._beaten >= _BEAT_SECONDS:
            self._beaten = time.monotonic()
            self._beat += 1
            self._publisher.publish(replace(self._progress, beat=self._beat))

    def _begin(self) -> None:
        """Start what watches the steps."""
        url = os.environ.get(PROGRESS_URL_VARIABLE) if self.rank == 0 else None
        self._publisher = Publisher(url) if url else None
        self._samples = 0
        self._reported = time.monotonic()
        if self._saver:
            self._saver.begin()
        self._watchdog = Watchdog(self.rank, self.step)
        for model in self._models:
            self._stragglers.watch(model)
        self._stragglers.begin()

    def _end(self) -> None:
        self._termination = None
        if self._saver:
            self._saver.close()
        self._stragglers.close()
        if self._watchdog:
            self._watchdog.close()
            self._watchdog = None
        if self._publisher:
            self._publisher.close()
            self._publisher = None
        for tracker in self._trackers:
            tracker.flush()

    def _agree(self, stopping: bool) -> _Agreement:
        """End a step: return on every rank whether ``stopping`` is true on one of them, and what rank 0 alone knows.

        That is whether the step was the best, whether a report is due, whether to compare the ranks, and the deadline
        that its publisher has been told.
        """
        assert self._watchdog
        deadline = math.ceil(self._publisher.deadline) if self._publisher else 0
        improved = self.rank == 0 and self._saver is not None and self._saver.improved()
        reporting = self.rank == 0 and time.monotonic() - self._reported >= self._report_every()
        if self.world_size > 1:
            self._stragglers.arrived()
            compare = self.rank == 0 and self._stragglers.due()
            values = [stopping, deadline, compare, improved, reporting]
            agreed = torch.tensor(values, dtype=torch.int32, device=self._device)
            dist.all_reduce(agreed, dist.ReduceOp.MAX)
            stopping, deadline, compare, improved, reporting = agreed.tolist()
            self._stragglers.agreed()
            if compare and not stopping:
                self._stragglers.compare()
        self._watchdog.deadline = deadline
        self._watchdog.alive(self.step)
        return _Agreement(bool(stopping), bool(improved), bool(reporting))

    def _save(self, *, improved: bool, last: bool) -> None:
        """Take a snapshot if one is due; wait until it is complete if it is the last."""
        if self._saver:
            self._saver.step_done(self.step, due=improved or last or self.step % self._snapshot_every == 0, wait=last)

    def _report(self, total_steps: int) -> None:
        """Report on rank 0; the others say what their loss is."""
        loss = self._mean_loss()
        if self.rank != 0:
            return
        elapsed = time.monotonic() - self._reported
        slow, saved = self._stragglers.found, self.snapshot
        progress = Progress(
            step=self.step,
            total_steps=total_steps,
            epoch=self._epoch,
            loss=loss,
            samples_per_second=self._samples / elapsed if self._samples and elapsed else None,
            world_size=self.world_size,
            snapshot_step=saved.step if saved else None,
            snapshot_time=saved.time if saved else None,
            snapshot_seconds=self._saver.blocked if self._saver else None,
            beat=self._beat,
            slow_rank=slow.rank if slow else None,
            slow_node=slow.rank // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if slow else None,
            slow_seconds=slow.lag_seconds if slow else None,
            step_seconds=slow.step_seconds if slow else None,
        )
        self._samples = 0
        self._reported = time.monotonic()
        self._progress = progress
        say(progress.line(time.time()))
        if self._publisher:
            self._publisher.publish(progress)
        if self._trackers:
            self._track(progress)

    def _track(self, progress: Progress) -> None:
        values = {
            "loss": progress.loss,
            "samples_per_second": progress.samples_per_second,
            "world_size": progress.world_size,
            "epoch": progress.epoch,
            **{name: float(value) for name, value in self._metrics.items()},
        }
        self._metrics.clear()
        for tracker in self._trackers:
            tracker.log(progress.step, {name: value for name, value in values.items() if value is not None})

    def _mean_loss(self) -> float | None:
        """Return the mean over the ranks that have reported a loss."""
        if self.world_size == 1:
            return None if self._loss is None else float(self._loss)
        own = [0.0, 0.0] if self._loss is None else [float(self._loss), 1.0]
        total = torch.tensor(own, dtype=torch.float64, device=self._device)
        dist.all_reduce(total)
        losses, ranks = total.tolist()
        return losses / ranks if ranks else None

    def _report_every(self) -> float:
        """Return the seconds between reports: few enough for nobody to take the silence for a hang."""
        deadline = self._publisher.deadline if self._publisher else 0.0
        return min(self._report_seconds, deadline / 10) if deadline else self._report_seconds

    def _leave(self, termination: Termination) -> None:
        if self.rank == 0:
            event("drain", at=self.step, snapshot=self.snapshot.step if self.snapshot else "none")
        if self._watchdog:
            self._watchdog.deadline = 0  # there are no more steps
        if not termination.wait(self._drain_seconds):
            logger.warning("another rank was told to stop %.0f s ago, this one was not; leaving", self._drain_seconds)
        raise SystemExit(EXIT_CODE)


def path_or_default(snapshot_path: str | Path | None) -> str | Path:
    """Return where snapshots go: what was given, or else what the environment says; empty: nowhere."""
    return os.environ.get(SNAPSHOT_PATH_VARIABLE, "") if snapshot_path is None else snapshot_path


def _plain(stateful: Stateful) -> Stateful:
    if isinstance(stateful, DistributedDataParallel):
        module: Stateful = stateful.module
        return module
    return stateful


def _collective_device() -> torch.device:
    """Return where the ranks' small agreements travel: on the CPU if the process group can, to wait for no GPU."""
    if dist.is_initialized() and "cpu:" not in dist.get_backend_config():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


# On import, so that what fails before the first Run is recorded too.
record_errors()
