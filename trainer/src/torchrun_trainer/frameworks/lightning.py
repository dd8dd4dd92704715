"""Lightning: a callback that keeps a Trainer elastic under torchrun, and the numbers that a Trainer needs.

Lightning takes RANK and WORLD_SIZE from torchrun, but splits the data by ``devices`` and ``num_nodes``. It compares the
two only if it starts the processes itself. With wrong numbers, ranks get wrong shares or train alone.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, TypedDict

from torchrun_trainer.frameworks.driven import Driven
from torchrun_trainer.launch.checks import LaunchError
from torchrun_trainer.snapshots.place import path_or_default
from torchrun_trainer.watch.process import prepare

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError:  # the package's former name, under which it is still published
    try:
        from pytorch_lightning import Callback, LightningModule, Trainer  # type: ignore[assignment]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("torchrun_trainer.lightning needs Lightning: pip install lightning") from error

logger = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d{12})\.ckpt")


class TrainerArguments(TypedDict):
    """The numbers of workers for a Trainer."""

    devices: int
    num_nodes: int


def trainer_arguments() -> TrainerArguments:
    """Return ``devices`` and ``num_nodes`` for ``Trainer(**trainer_arguments())``, as torchrun has started them.

    In a static job without torchrun, they are those of the job: Lightning then starts the workers of each node itself.
    Elsewhere both are 1. Raises LaunchError if nodes have different numbers of workers, which Lightning does not
    support.
    """
    if "LOCAL_WORLD_SIZE" not in os.environ and {"NPROC_PER_NODE", "NNODES"} <= os.environ.keys():
        return {"devices": int(os.environ["NPROC_PER_NODE"]), "num_nodes": int(os.environ["NNODES"])}
    local, world = (int(os.environ.get(name, "1")) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    nodes = int(os.environ.get("GROUP_WORLD_SIZE", str(world // local)))
    if local * nodes != world:
        raise LaunchError(
            f"torchrun has started {world} workers on {nodes} nodes, and {local} on this node: Lightning needs the "
            "same number on each node, so use the same --nproc-per-node everywhere"
        )
    return {"devices": local, "num_nodes": nodes}


def check(trainer: Trainer) -> None:
    """Compare a Trainer with what torchrun has started. ``Elastic`` does this when ``fit`` begins.

    Raises LaunchError, which says what to write instead.
    """
    wanted = trainer_arguments()
    found = {"devices": trainer.num_devices, "num_nodes": trainer.num_nodes}
    if found != wanted:
        world = wanted["devices"] * wanted["num_nodes"]
        raise LaunchError(
            f"Trainer(devices={found['devices']}, num_nodes={found['num_nodes']}) does not fit the {world} workers "
            f"that torchrun has started: write devices={wanted['devices']}, num_nodes={wanted['num_nodes']}, or in an "
            "elastic job, where they change, **torchrun_trainer.lightning.trainer_arguments()"
        )


class Elastic(Callback):
    """Saves before the ranks leave, continues from there after a restart, and reports progress.

    Create it before the Trainer, pass it to the Trainer as a callback, and pass ``checkpoint`` to ``fit`` as
    ``ckpt_path``. After each step (of the optimizer) the ranks agree whether one of them has received SIGTERM. If so,
    they save and leave.

    Args:
        snapshot_path: a directory shared by all nodes, for checkpoints as Lightning writes them
            (``step-<step>.ckpt``); default: TORCHRUN_SNAPSHOT_PATH. Without either, or if empty, nothing is saved.
        snapshot_every: steps between two checkpoints. There is always one after the last step and one before leaving.
        keep: how many checkpoints to keep.
        samples_per_step: of all ranks together; the progress then shows samples per second.
        report_seconds: time between two lines of progress.
        drain_seconds: how long a rank waits for its own SIGTERM after the ranks have agreed to stop.

    """

    def __init__(
        self,
        snapshot_path: str | Path | None = None,
        *,
        snapshot_every: int = 100,
        keep: int = 2,
        samples_per_step: int = 0,
        report_seconds: float = 1.0,
        drain_seconds: float = 60.0,
    ) -> None:
        if snapshot_every < 1:
            raise ValueError(f"snapshot_every is {snapshot_every}; it must be at least 1")
        prepare()
        path = path_or_default(snapshot_path)
        self._directory = Path(path) if path else None
        self._snapshot_every = snapshot_every
        self._keep = keep
        self._samples = samples_per_step
        self._seconds = {"report_seconds": report_seconds, "drain_seconds": drain_seconds}
        self._run: Driven | None = None
        self._optimizer_steps = 0
        newest = _checkpoints(self._directory)[:1] if self._directory else []
        self.step = newest[0][0] if newest else 0
        """The number of steps done: in ``checkpoint``, and then in this training."""
        self.checkpoint = newest[0][1] if newest else None
        """The newest checkpoint; None if there is none yet."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the numbers of the Trainer."""
        check(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove what a killed process has left behind."""
        if self._directory and trainer.is_global_zero:
            for leftover in self._directory.glob(".step-*.tmp"):
                _remove(leftover)

    def state_dict(self) -> dict[str, Any]:
        """Save the number of steps with a checkpoint."""
        return {"step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of steps from the checkpoint that the training continues from."""
        self.step = state_dict["step"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count steps, and take SIGTERM over."""
        # Lightning's handler calls a collective, which would meet another one on the ranks without the signal.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._optimizer_steps = trainer.global_step
        total = trainer.estimated_stepping_batches
        self._run = Driven(**self._seconds)
        self._run.begin(self.step, int(total) if total != float("inf") else sys.maxsize)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 (Lightning's signature)
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """End a step if the optimizer has made one."""
        assert self._run
        if trainer.global_step == self._optimizer_steps:
            return
        self._optimizer_steps = trainer.global_step
        self.step += 1
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        self._run.report(loss=loss, samples=self._samples, epoch=trainer.current_epoch)
        leaving = self._run.advance()
        last = trainer.global_step == trainer.estimated_stepping_batches
        if self._directory and (leaving or last or self.step % self._snapshot_every == 0):
            self._run.saved(self._save(trainer, self._directory))
        if leaving:
            self._run.leave()

    def on_validation_batch_end(self, *_: object) -> None:
        """Report that a validation makes progress."""
        if self._run:
            self._run.alive()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop watching the steps."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop watching the steps."""
        self._close()

    def _close(self) -> None:
        if self._run:
            self._run.close()
            self._run = None

    def _save(self, trainer: Trainer, directory: Path) -> Path:
        """Save on all ranks, as sharded strategies need. The checkpoint appears complete or not at all."""
        final = directory / f"step-{self.step:012d}.ckpt"
        temporary = directory / f".step-{self.step:012d}.tmp"
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            temporary.replace(final)
            for _, older in [found for found in _checkpoints(directory) if found[0] <= self.step][max(self._keep, 1) :]:
                _remove(older)
        return final


def _checkpoints(directory: Path) -> list[tuple[int, Path]]:
    """List the checkpoints, the newest first."""
    found = [(match, path) for path in directory.glob("step-*.ckpt") if (match := _NAME.fullmatch(path.name))]
    return sorted(((int(match[1]), path) for match, path in found), reverse=True)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint: a file, or the directory of a sharded strategy."""
    if checkpoint.is_dir():
        shutil.rmtree(checkpoint)
    else:
        checkpoint.unlink(missing_ok=True)
