"""Keeps a plain PyTorch script elastic under torchrun: snapshots, exact continuation, draining, progress."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchrun_trainer.batches import GlobalBatches
    from torchrun_trainer.checks import LaunchError, check_launch
    from torchrun_trainer.rates import scale_learning_rate
    from torchrun_trainer.run import Run
    from torchrun_trainer.saver import Stateful
    from torchrun_trainer.snapshot import Snapshot, SnapshotError
    from torchrun_trainer.startup import defer_compiler

__all__ = [
    "GlobalBatches",
    "LaunchError",
    "Run",
    "Snapshot",
    "SnapshotError",
    "Stateful",
    "check_launch",
    "defer_compiler",
    "scale_learning_rate",
]

# Loaded when first asked for: `python -m torchrun_trainer.barrier` and its like must not wait for torch.
_MODULES = {
    "GlobalBatches": "batches",
    "LaunchError": "checks",
    "Run": "run",
    "Snapshot": "snapshot",
    "SnapshotError": "snapshot",
    "Stateful": "saver",
    "check_launch": "checks",
    "defer_compiler": "startup",
    "scale_learning_rate": "rates",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
