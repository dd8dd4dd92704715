"""Keeps a plain PyTorch script elastic under torchrun: snapshots, exact continuation, draining, progress."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchrun_trainer.data.batches import GlobalBatches
    from torchrun_trainer.data.rates import scale_learning_rate
    from torchrun_trainer.launch.checks import LaunchError, check_launch
    from torchrun_trainer.launch.startup import defer_compiler
    from torchrun_trainer.run import Run
    from torchrun_trainer.snapshots.copier import Stateful
    from torchrun_trainer.snapshots.snapshot import Snapshot, SnapshotError

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

# Loaded on first use: `python -m torchrun_trainer.barrier` and the like must not wait for torch.
_MODULES = {
    "GlobalBatches": "data.batches",
    "LaunchError": "launch.checks",
    "Run": "run",
    "Snapshot": "snapshots.snapshot",
    "SnapshotError": "snapshots.snapshot",
    "Stateful": "snapshots.copier",
    "check_launch": "launch.checks",
    "defer_compiler": "launch.startup",
    "scale_learning_rate": "data.rates",
}


def __getattr__(name: str) -> object:
    """Load a public name on first use. From then on, the library records uncaught errors."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    importlib.import_module(f"{__name__}.watch.process").prepare()
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
