"""Snapshots by themselves: save, list, find and load them without a ``Run``."""

from torchrun_trainer.snapshots.api import load, newest, save
from torchrun_trainer.snapshots.catalog import available
from torchrun_trainer.snapshots.snapshot import Snapshot, SnapshotError

__all__ = ["Snapshot", "SnapshotError", "available", "load", "newest", "save"]
