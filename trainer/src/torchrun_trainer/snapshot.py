"""Snapshots: files that are either complete or not there, and that say when they have been damaged.

A snapshot is an ordinary ``torch.save`` file called ``snapshot-<step>-<checksum>.pt``. Since the checksum is part of
the name, one rename publishes both, and ``torch.load`` reads the file without this library.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import torch

logger = logging.getLogger(__name__)

_NAME = re.compile(r"snapshot-(\d{12})-([0-9a-f]{16})\.pt")
_BLOCK = 1 << 20


class SnapshotError(RuntimeError):
    """No snapshot can be read though there are some, or one that must be read cannot."""


@dataclass(frozen=True)
class Snapshot:
    """A snapshot on disk: its file, the number of steps done when it was taken, and when that was (UTC)."""

    path: Path
    step: int
    time: datetime


class _Hashing:
    """A file opened for writing that keeps a checksum of what went through it."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._raw.write(data)

    def flush(self) -> None:
        self._raw.flush()

    def checksum(self) -> str:
        return self._hash.hexdigest()[:16]


def save(directory: str | Path, step: int, state: Mapping[str, Any], keep: int = 2) -> Snapshot:
    """Write ``state`` as the snapshot of ``step`` and remove all but the newest ``keep`` up to that step.

    When it returns, the snapshot has reached the disk. A process killed half-way leaves a temporary file behind, which
    the next ``save`` removes: there must be one writer at a time. Raises OSError when the directory cannot be written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for leftover in directory.glob(".snapshot-*.tmp"):
        leftover.unlink(missing_ok=True)
    temporary = directory / f".snapshot-{step:012d}-{os.getpid()}.tmp"
    with temporary.open("wb") as raw:
        hashing = _Hashing(raw)
        torch.save(dict(state), hashing)  # type: ignore[arg-type] # write and flush is all it uses
        raw.flush()
        os.fsync(raw.fileno())
    final = directory / f"snapshot-{step:012d}-{hashing.checksum()}.pt"
    temporary.replace(final)
    _sync_directory(directory)
    older = [known for known in available(directory) if known.step <= step and known.path != final]
    for superseded in older[max(keep, 1) - 1 :]:
        superseded.path.unlink(missing_ok=True)
    return _described(final, step)


def available(directory: str | Path) -> list[Snapshot]:
    """List the complete snapshots in a directory, the newest step first; none if there is no such directory."""
    found = []
    for path in Path(directory).glob("snapshot-*.pt"):
        match = _NAME.fullmatch(path.name)
        if match:
            found.append(_described(path, int(match[1])))
    return sorted(found, key=lambda snapshot: (snapshot.step, snapshot.time), reverse=True)


def newest(directory: str | Path) -> Snapshot | None:
    """Find the newest undamaged snapshot; None if there has never been one.

    A damaged file is set aside as ``<name>.corrupt`` with a warning and the one before it is taken.
    Raises SnapshotError when all are damaged: training again from the start must be somebody's decision.
    """
    for snapshot in available(directory):
        if _undamaged(snapshot.path):
            return snapshot
        logger.warning("snapshot %s is damaged: its checksum differs", snapshot.path)
        snapshot.path.replace(snapshot.path.with_name(f"{snapshot.path.name}.corrupt"))
    damaged = sorted(Path(directory).glob("snapshot-*.corrupt"))
    if damaged:
        names = ", ".join(str(path) for path in damaged)
        raise SnapshotError(f"all snapshots are damaged: {names}; remove them to start from the beginning")
    return None


def load(snapshot: Snapshot, *, verify: bool = True, weights_only: bool = True) -> dict[str, Any]:
    """Read what ``save`` was given, tensors on the CPU.

    ``weights_only=False`` unpickles arbitrary objects, that is runs what the file says. Raises SnapshotError when the
    file is missing or damaged.
    """
    try:
        if verify and not _undamaged(snapshot.path):
            raise SnapshotError(f"snapshot {snapshot.path} is damaged: its checksum differs")
        state: dict[str, Any] = torch.load(snapshot.path, map_location="cpu", weights_only=weights_only)
    except FileNotFoundError as error:
        raise SnapshotError(
            f"snapshot {snapshot.path} cannot be seen here: its directory must be shared by all nodes"
        ) from error
    return state


def _undamaged(path: Path) -> bool:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return path.name.endswith(f"-{digest.hexdigest()[:16]}.pt")


def _described(path: Path, step: int) -> Snapshot:
    return Snapshot(path, step, datetime.fromtimestamp(path.stat().st_mtime, tz=UTC))


def _sync_directory(directory: Path) -> None:
    """Have the rename itself survive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
