"""Finds the storage that a path or URL means."""

from __future__ import annotations

from pathlib import Path

from torchrun_trainer.snapshots.storage.base import Storage
from torchrun_trainer.snapshots.storage.directory import Directory
from torchrun_trainer.snapshots.storage.object_store import ObjectStore


def storage(location: str | Path) -> Storage:
    """Return the storage at a path or URL. Raises StorageError for a URL that cannot be used."""
    text = str(location)
    if "://" not in text:
        return Directory(Path(location))
    if text.startswith(("file://", "local://")):
        return Directory(Path(text.partition("://")[2]))
    return ObjectStore(text)
