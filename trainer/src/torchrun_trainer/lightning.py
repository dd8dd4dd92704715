"""Lightning: a callback that keeps a Trainer elastic under torchrun, and the numbers that a Trainer must be given.

Lightning takes RANK and WORLD_SIZE from torchrun, but splits the data by ``devices`` and ``num_nodes``, and compares
the two only where it starts the processes itself. With other numbers ranks get wrong shares, or train alone.
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

from torchrun_trainer.checks import LaunchError
from torchrun_trainer.driven import Driven
from torchrun_trainer.run import path_or_default

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError:  # the package was called pytorch_lightning before, and still can be had so
    try:
        from pytorch_lightning import Callback, LightningModule, Trainer  # type: ignore[assignment]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("torchrun_trainer.lightning needs Lightning: pip install lightning") from error

logger = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d{12})\.ckpt")


class TrainerArguments(TypedDict):
    """What a Trainer is told about its workers."""

    devices: int
    num_nodes: int


def trainer_arguments() -> TrainerArguments:
    """Return ``devices`` and ``num_nodes`` for ``Trainer(**trainer_arguments())``, as torchrun has started them.

    Without torchrun both are 1. Raises LaunchError where nodes have different numbers of workers, which Lightning
    cannot have.
    """
    local, world = (int(os.environ.get(name, "1")) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    nodes = int(os.environ.get("GROUP_WORLD_SIZE", str(world // local)))
    if local * nodes != world:
        raise LaunchError(
            f"torchrun has started {world} workers on {nodes} nodes, of which this one has {local}: Lightning needs as "
            "many on each node, so write the same --nproc-per-node everywhere"
        )
    return {"devices": local, "num_nodes": nodes}


def check(trainer: Trainer) -> None:
    """Compare a Trainer with what torchrun has started; ``Elastic`` does it by itself when ``fit`` begins.

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
    """Saves before the ranks leave, continues where they left, and reports progress.

    Make it before the Trainer, give it to the Trainer as a callback, and ``checkpoint`` to ``fit`` as ``ckpt_path``.
    After each step (of the optimizer) the ranks agree whether one of them has received SIGTERM; then they save and
    leave.

    Args:
        snapshot_path: directory that all nodes share, for checkpoints as Lightning writes them (``step-<step>.ckpt``);
            default: TORCHRUN_SNAPSHOT_PATH; without both, or when empty, nothing is saved.
        snapshot_every: steps between two checkpoints; there is always one after the last step and one before leaving.
        keep: checkpoints kept.
        samples_per_step: of all ranks together, for the progress to show samples per second.
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
        """Steps done in ``checkpoint``, and then by this training."""
        self.checkpoint = newest[0][1] if newest else None
        """The newest checkpoint, None if there is none yet."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the Trainer's numbers."""
        check(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove what a killed process left behind."""
        if self._directory and trainer.is_global_zero:
            for leftover in self._directory.glob(".step-*.tmp"):
                _remove(leftover)

    def state_dict(self) -> dict[str, Any]:
        """Have the number of steps saved with a checkpoint."""
        return {"step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it from the checkpoint that is really continued from."""
        self.step = state_dict["step"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count; takes SIGTERM over."""
        # Lightning's handler calls a collective, which meets another one on the ranks that got no signal.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._optimizer_steps = trainer.global_step
        total = trainer.estimated_stepping_batches
        self._run = Driven(**self._seconds)
        self._run.begin(self.step, int(total) if total != float("inf") else sys.maxsize)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """End a step, if the optimizer has made one."""
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
        """Say that a validation gets on."""
        if self._run:
            self._run.alive()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop watching."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop watching."""
        self._close()

    def _close(self) -> None:
        if self._run:
            self._run.close()
            self._run = None

    def _save(self, trainer: Trainer, directory: Path) -> Path:
        """Save on all ranks, as sharded strategies need it; the checkpoint appears complete or not at all."""
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
    """Remove a checkpoint: a file, or a directory of a sharded strategy."""
    if checkpoint.is_dir():
        shutil.rmtree(checkpoint)
    else:
        checkpoint.unlink(missing_ok=True)
