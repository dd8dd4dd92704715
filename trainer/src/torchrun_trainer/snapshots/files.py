"""Files: writes and reads the file of one snapshot, and finds out whether it is damaged."""

from __future__ import annotations

import errno
import zipfile
from collections.abc import Mapping
from typing import Any

import torch

from torchrun_trainer.snapshots.place import Place
from torchrun_trainer.snapshots.snapshot import PREFIX, Snapshot, SnapshotError, fact_name, file_name, parse_name
from torchrun_trainer.snapshots.storage import Sink


def write(at: Place, step: int, state: Mapping[str, Any], facts: Mapping[str, str] | None = None) -> Snapshot:
    """Write a snapshot and remove none. Raises OSError, or what the storage raises, if that is not possible."""
    written_facts = {fact_name(key): value for key, value in (facts or {}).items()}

    def name(checksum: str) -> str:
        return at.single or file_name(step, checksum, written_facts)

    def content(file: Sink) -> None:
        torch.save(dict(state), file)  # type: ignore[arg-type] # it uses write and flush only

    written = at.storage.publish(f"{at.single}-" if at.single else PREFIX, content, name)
    return Snapshot(at.storage.where(written), step, at.storage.files()[written], written_facts)


def read(at: Place, snapshot: Snapshot, *, verify: bool = False, weights_only: bool = True) -> dict[str, Any]:
    """Read what was written, tensors on the CPU; of sharded tensors only their names.

    ``weights_only=False`` unpickles arbitrary objects: it runs code from the file. Raises SnapshotError if the file is
    missing, damaged (``verify``), or no ``torch.save`` file of a dictionary.
    """
    try:
        reason = damage(at, snapshot) if verify else None
        if reason:
            raise SnapshotError(f"snapshot {snapshot.location} is damaged: {reason}")
        with at.storage.open(snapshot.name, "rb") as file:
            state = torch.load(file, map_location="cpu", weights_only=weights_only)
    except FileNotFoundError as error:
        raise SnapshotError(
            f"snapshot {snapshot.location} cannot be seen here: its directory must be shared by all nodes"
        ) from error
    except SnapshotError:
        raise
    except Exception as error:
        summary = str(error).splitlines()[0]
        raise SnapshotError(f"snapshot {snapshot.location} cannot be read: {summary}") from error
    if not isinstance(state, dict):
        raise SnapshotError(
            f"snapshot {snapshot.location} holds a {type(state).__name__}: this library did not write it"
        )
    return state


def damage(at: Place, snapshot: Snapshot) -> str | None:
    """Return what is wrong with a snapshot's file; None if nothing is."""
    if at.single:
        return _zip_damage(at, snapshot.name)
    parsed = parse_name(snapshot.name)
    _, checksum = at.storage.checksum(snapshot.name)
    return None if parsed and parsed.checksum == checksum else "its checksum differs"


def shards_damage(at: Place, snapshot: Snapshot, rank: int = 0, world_size: int = 1) -> str | None:
    """Return what is wrong with this rank's part of the shards; None if nothing is, or nothing is sharded."""
    if snapshot.shards is None:
        return None
    from torchrun_trainer.snapshots.sharded import damage  # noqa: PLC0415 (a slow import)

    return damage(at.storage, snapshot.shards, manifest(read(at, snapshot)), rank, world_size)


def manifest(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the files that the shards of a snapshot consist of, with size and checksum."""
    files: dict[str, Any] = document["shards"]
    return {name: tuple(facts) for name, facts in files.items()}


def _zip_damage(at: Place, name: str) -> str | None:
    """Check the checksums inside every ``torch.save`` file, which ``torch.load`` itself ignores."""
    try:
        with at.storage.open(name, "rb") as file, zipfile.ZipFile(file) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        return f"it is no complete torch.save file ({error})"
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return "it is no complete torch.save file (an offset in it lies before its beginning)"
    return f"the checksum of {bad} in it differs" if bad else None
