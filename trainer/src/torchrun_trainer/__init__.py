"""Keeps a plain PyTorch script elastic under torchrun: snapshots, exact continuation, draining, progress."""

from torchrun_trainer.batches import GlobalBatches
from torchrun_trainer.rates import scale_learning_rate
from torchrun_trainer.run import Run
from torchrun_trainer.saver import Stateful
from torchrun_trainer.snapshot import Snapshot, SnapshotError
from torchrun_trainer.startup import defer_compiler

__all__ = ["GlobalBatches", "Run", "Snapshot", "SnapshotError", "Stateful", "defer_compiler", "scale_learning_rate"]
