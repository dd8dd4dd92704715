"""Place: where the snapshots of a run go, and what a path or URL means."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torchrun_trainer.snapshots.snapshot import SnapshotError
from torchrun_trainer.snapshots.storage import Storage, StorageError, storage

PATH_VARIABLE = "TORCHRUN_SNAPSHOT_PATH"
SINGLE_FILE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")


@dataclass(frozen=True)
class Place:
    """A storage, and in it many files, or the file ``single`` with one snapshot, which each later one replaces."""

    storage: Storage
    single: str | None

    @property
    def location(self) -> str:
        """Return the path or URL that was given."""
        return self.storage.where(self.single) if self.single else self.storage.location


def place(location: str | Path) -> Place:
    """Return the place that a path or URL means: a file if it ends like one and is no directory.

    Raises SnapshotError if it cannot be used.
    """
    home, single = split(location)
    try:
        return Place(storage(home), single)
    except StorageError as error:
        raise SnapshotError(str(error)) from error


def split(location: str | Path) -> tuple[str, str | None]:
    """Return the directory (or its URL) that a path or URL means, and the name of the file if it means one."""
    text = str(location).rstrip("/")
    url = "://" in text
    if not text.endswith(SINGLE_FILE_SUFFIXES) or (not url and Path(text).is_dir()):
        return text or "/", None
    parent, _, name = text.rpartition("/")
    return (parent, name) if url else (str(Path(text).parent), Path(text).name)


def path_or_default(snapshot_path: str | Path | None) -> str | Path:
    """Return the given path, or else that of the environment; if empty, there are no snapshots."""
    return os.environ.get(PATH_VARIABLE, "") if snapshot_path is None else snapshot_path
