"""The snapshots by themselves, for scripts without a ``Run``: ``torchrun_trainer.snapshot`` exports these functions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchrun_trainer.snapshots import catalog, files
from torchrun_trainer.snapshots.place import Place, place
from torchrun_trainer.snapshots.snapshot import Snapshot, parse_name
from torchrun_trainer.snapshots.storage import storage


def save(
    directory: str | Path, step: int, state: Mapping[str, Any], keep: int = 2, facts: Mapping[str, str] | None = None
) -> Snapshot:
    """Write ``state`` as the snapshot of ``step``, and remove all but the newest ``keep`` up to that step.

    When it returns, the snapshot has reached the disk. A process killed halfway leaves a temporary file behind, which
    the next ``save`` removes: there must be one writer at a time. ``facts`` are short texts that become part of the
    name. Raises OSError if the directory cannot be written.
    """
    at = place(directory)
    at.storage.prepare()
    saved = files.write(at, step, state, facts)
    catalog.prune(at, saved, keep)
    return saved


def newest(directory: str | Path) -> Snapshot | None:
    """Return the newest undamaged snapshot; None if there has never been one.

    A damaged file is renamed to ``<name>.corrupt`` with a warning, and the one before it is used. Raises SnapshotError
    if all are damaged: a person has to decide to train from the start.
    """
    at = place(directory)
    while (candidate := catalog.newest_undamaged(at)) is not None:
        reason = files.shards_damage(at, candidate)
        if reason is None:
            break
        catalog.set_aside(at, candidate, reason)
    return candidate


def load(snapshot: Snapshot, *, verify: bool = True, weights_only: bool = True) -> dict[str, Any]:
    """Read what ``save`` was given, tensors on the CPU; of sharded tensors only their names.

    ``weights_only=False`` unpickles arbitrary objects: it runs code from the file. Raises SnapshotError if the file is
    missing, damaged, or no ``torch.save`` file of a dictionary.
    """
    parent = snapshot.location.rpartition("/")[0] if "://" in snapshot.location else snapshot.path.parent
    single = None if parse_name(snapshot.name) else snapshot.name
    return files.read(Place(storage(parent), single), snapshot, verify=verify, weights_only=weights_only)
