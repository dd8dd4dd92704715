"""The run: what a training script calls to continue from a snapshot, go through its steps, and report."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from torchrun_trainer.data.loop import Loop, MicroBatches
from torchrun_trainer.launch.fault_tolerance import settings
from torchrun_trainer.per_step.guards import guard
from torchrun_trainer.per_step.leading import LeadSaver
from torchrun_trainer.per_step.members import Members
from torchrun_trainer.per_step.quorum import Quorum
from torchrun_trainer.snapshots.copier import Stateful
from torchrun_trainer.snapshots.place import path_or_default
from torchrun_trainer.snapshots.saver import AnySaver, NoSaver, Saver
from torchrun_trainer.snapshots.snapshot import Snapshot
from torchrun_trainer.stepping.stepper import Stepper, join
from torchrun_trainer.stepping.world import FixedWorld, World
from torchrun_trainer.watch.tracking import trackers


class Run:
    """A training run that survives restarts, whatever the number of workers.

    Create it on every rank, after ``init_process_group`` (a run in one process needs none) and after the objects in
    ``state``: each is restored from the newest snapshot, if there is one. ``step`` is the number of steps done. A
    snapshot of a DistributedDataParallel model holds the state of the plain module. The states of the random number
    generators are saved too, and restored when the steps begin.

    Args:
        snapshot_path: a directory shared by all nodes, a file (``snapshot.pth``), or a URL (``s3://bucket/path``);
            default: the environment variable TORCHRUN_SNAPSHOT_PATH. Without either, or if empty, nothing is saved.
        snapshot_every: steps between two snapshots. There is always one after the last step and one before leaving.
        keep: how many snapshots to keep.
        keep_best: a value given to ``report``, such as "accuracy" (or "-loss" for the lowest loss). A step with a new
            best value ends with a snapshot, which is kept in addition to the newest ones until there is a better one.
        report_seconds: time between two lines of progress.
        drain_seconds: how long a rank waits for its own SIGTERM after the ranks have agreed to stop.
        track: one or several of "tensorboard", "tensorboard:DIRECTORY", "wandb" and "wandb:[ENTITY/]PROJECT", which
            also get each line of progress, as one run across restarts.
        state: what a snapshot holds, by name.

    Raises:
        LaunchError: the process group is missing, or differs from what torchrun started (see ``check_launch``).
        SnapshotError: no snapshot can be read or fits ``state`` though there are some; ``state`` cannot be saved;
            snapshots cannot be written there; another live run writes there.
        ValueError: an argument is out of range, or the snapshot belongs to other GlobalBatches.
        ImportError: a package that ``track`` needs is not installed.

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
        group, per_step = join(), settings()
        path = path_or_default(snapshot_path)
        plain = {name: _plain(stateful) for name, stateful in state.items()}
        self._saver: AnySaver = NoSaver()
        if path:
            self._saver = Saver(path, plain, ranks=group, keep=keep, keep_best=keep_best, take=per_step is None)
        step = self._saver.restore()
        world: World = FixedWorld(group)
        if per_step:
            world = Quorum(per_step, Members(group), plain)
            guard(state.values(), world)
            self._saver = LeadSaver(self._saver, world.ranks)
        self._trackers = trackers(track, path, step)
        self._stepper = Stepper(
            world,
            self._saver,
            step=step,
            models=[stateful for stateful in state.values() if isinstance(stateful, DistributedDataParallel)],
            trackers=self._trackers,
            snapshot_every=snapshot_every,
            report_seconds=report_seconds,
            drain_seconds=drain_seconds,
        )
        self._loop = Loop(self._stepper, state.values())

    @property
    def rank(self) -> int:
        """The rank of this worker. Where the job recovers step by step, each step may have another one."""
        return self._stepper.rank

    @property
    def world_size(self) -> int:
        """The number of workers. Where the job recovers step by step, each step may have another one."""
        return self._stepper.world_size

    @property
    def step(self) -> int:
        """The number of steps done."""
        return self._stepper.step

    @property
    def snapshot(self) -> Snapshot | None:
        """The newest complete snapshot, on rank 0."""
        return self._saver.newest

    def steps(self, total_steps: int) -> Generator[int]:
        """Yield the number of each step still to do, from 0; do the step in the body of the loop, on every rank.

        After each step the ranks agree whether one of them has received SIGTERM. If so, rank 0 saves a snapshot, and
        every rank waits for its own SIGTERM: to torchrun, leaving earlier would look like success or a failure of its
        own. Then it raises SystemExit with code 143, and dies of SIGTERM once the script has cleaned up. Call this in
        the main thread.
        """
        return self._stepper.steps(total_steps)

    def epochs(self, total_epochs: int) -> Iterator[int]:
        """Yield the number of each epoch still to do, from 0; take its steps from ``batches`` or ``accumulate``.

        This is ``steps`` for scripts that loop over epochs; ``state`` must contain GlobalBatches. A restart from a
        snapshot repeats what follows the steps in the body (an evaluation, the step of a scheduler), unless the
        snapshot is younger.

        Raises:
            ValueError: ``state`` contains no GlobalBatches, or several.
            RuntimeError: the body has not done all steps of its epoch.

        """
        return self._loop.epochs(total_epochs)

    def batches(self, loader: DataLoader[Any], total_steps: int | None = None) -> Iterator[Any]:
        """Yield this rank's share of the batch of each step: up to the end of the epoch, or outside ``epochs`` of all.

        The body does the step, with ``weigh(loss).backward()``. Loss, samples and epoch are reported automatically.

        Args:
            loader: a DataLoader made with ``GlobalBatches.sampler`` or ``stream``, of the GlobalBatches in ``state``.
            total_steps: the number of steps, outside ``epochs``.

        Raises:
            TypeError, ValueError: the loader is of another kind, or splits shares: see ``accumulate``.

        """
        return self._loop.batches(loader, total_steps)

    def accumulate(self, loader: DataLoader[Any], total_steps: int | None = None) -> Iterator[MicroBatches]:
        """Yield this rank's micro-batches of each step, to be iterated to the end; their gradients add up.

        Only the last micro-batch synchronizes the gradients of the models in ``state``. Otherwise as ``batches``.
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
        """Report how the current step went, for the next line of progress. Call it on all ranks, or on rank 0.

        Args:
            loss: the loss of this rank, to be averaged over the ranks that give one. A tensor is read (which waits for
                a GPU) only when a line is due.
            samples: how many samples all ranks together took in this step.
            epoch: the epoch that the step belongs to.
            metrics: further values of rank 0, for ``keep_best`` and ``track``.

        Raises:
            ValueError, TypeError: a metric is not a single number.

        """
        self._stepper.report(loss=loss, samples=samples, epoch=epoch, **metrics)

    def alive(self) -> None:
        """Report that this rank makes progress outside of a step, so that it does not count as a hang.

        Call it from time to time, on every rank, in an evaluation or other long work between two steps. A process that
        was told to stop waits for such work. Without this call it exits after 2 s plus three times the time of a step,
        and the steps since the last snapshot are lost. A call costs a few microseconds.
        """
        self._stepper.alive()


def _plain(stateful: Stateful) -> Stateful:
    if isinstance(stateful, DistributedDataParallel):
        module: Stateful = stateful.module
        return module
    return stateful
