"""Snapshots: files that are either complete or not there, and that say when they have been damaged.

A snapshot is an ordinary ``torch.save`` file called ``snapshot-<step>-<checksum>.pt``. Since the checksum is part of
the name, one rename publishes both, and ``torch.load`` reads the file without this library. Further facts may follow in
the name: ``,accuracy=0.93``, or ``,shards=<id>`` where the directory ``shards-<step>-<id>`` belongs to it. A path that
names a file (``snapshot.pth``) holds one snapshot, which each later one replaces.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from torchrun_trainer.storage import Sink, Storage, StorageError, storage

logger = logging.getLogger(__name__)

SINGLE_FILE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
FORMAT = 2
"""What ``Run`` writes. 1, without a key that says so, held ``step`` and ``state`` only."""
PREFIX = "snapshot-"
_SHARDS = "shards"
_NAME = re.compile(r"snapshot-(\d{12})-([0-9a-f]{16})((?:,[\w.-]+=[\w.+-]+)*)\.pt")
_NO_NAME_CHARACTER = re.compile(r"[^\w.-]")


class SnapshotError(RuntimeError):
    """No snapshot can be read though there are some, or one cannot be read or written that must be."""


@dataclass(frozen=True)
class Snapshot:
    """A snapshot: its path or URL, the number of steps done when it was taken, and when that was (UTC).

    ``facts`` is what else its name says, such as the metric that it was kept for.
    """

    location: str
    step: int
    time: datetime
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Return its file. Raises ValueError if it lies at a URL."""
        if "://" in self.location:
            raise ValueError(f"{self.location} is no file")
        return Path(self.location)

    @property
    def name(self) -> str:
        """Return the last part of its path or URL."""
        return self.location.replace("\\", "/").rpartition("/")[2]

    @property
    def shards(self) -> str | None:
        """Return the name of the directory with its shards, beside it; None if nothing in it is sharded."""
        return shards_directory(self.step, self.facts) if _SHARDS in self.facts else None

    def metric(self, name: str) -> float:
        """Return a number that its name tells; NaN if it does not."""
        try:
            return float(self.facts.get(name, "nan"))
        except ValueError:
            return math.nan


def shards_directory(step: int, facts: Mapping[str, str]) -> str:
    """Return the name of the directory with the shards of the snapshot that has these facts in its name."""
    return f"{_SHARDS}-{step:012d}-{facts[_SHARDS]}"


@dataclass(frozen=True)
class Place:
    """Where snapshots go: a storage, and in it many files or ``single`` one."""

    storage: Storage
    single: str | None

    @property
    def location(self) -> str:
        """Return the path or URL that was given."""
        return self.storage.where(self.single) if self.single else self.storage.location


def place(location: str | Path) -> Place:
    """Find out what a path or URL means: that of a file if it ends like one and is no directory.

    Raises SnapshotError if it cannot be used.
    """
    home, single = split(location)
    try:
        return Place(storage(home), single)
    except StorageError as error:
        raise SnapshotError(str(error)) from error


def split(location: str | Path) -> tuple[str, str | None]:
    """Return the directory (or its URL) that a path or URL means, and the file in it if it means one."""
    text = str(location).rstrip("/")
    url = "://" in text
    if not text.endswith(SINGLE_FILE_SUFFIXES) or (not url and Path(text).is_dir()):
        return text or "/", None
    parent, _, name = text.rpartition("/")
    return (parent, name) if url else (str(Path(text).parent), Path(text).name)


def save(
    directory: str | Path, step: int, state: Mapping[str, Any], keep: int = 2, facts: Mapping[str, str] | None = None
) -> Snapshot:
    """Write ``state`` as the snapshot of ``step`` and remove all but the newest ``keep`` up to that step.

    When it returns, the snapshot has reached the disk. A process killed half-way leaves a temporary file behind, which
    the next ``save`` removes: there must be one writer at a time. ``facts`` are short texts that become part of the
    name. Raises OSError when the directory cannot be written.
    """
    at = place(directory)
    at.storage.prepare()
    saved = write(at, step, state, facts)
    prune(at, saved, keep)
    return saved


def write(at: Place, step: int, state: Mapping[str, Any], facts: Mapping[str, str] | None = None) -> Snapshot:
    """Write a snapshot and remove none."""
    tail = "".join(f",{fact_name(key)}={value}" for key, value in sorted((facts or {}).items()))

    def name(checksum: str) -> str:
        return at.single or f"{PREFIX}{step:012d}-{checksum}{tail}.pt"

    def content(file: Sink) -> None:
        torch.save(dict(state), file)  # type: ignore[arg-type] # write and flush is all it uses

    written = at.storage.publish(f"{at.single}-" if at.single else PREFIX, content, name)
    return Snapshot(at.storage.where(written), step, at.storage.files()[written], _facts(tail))


def prune(at: Place, newest: Snapshot, keep: int, best: str | None = None) -> None:
    """Remove all up to a snapshot's step but the newest ``keep``, and the best by a metric (``-name``: the lowest)."""
    if at.single:
        return
    older = [known for known in _available(at) if known.step <= newest.step and known.name != newest.name]
    kept = {newest.name, *(known.name for known in older[: max(keep, 1) - 1])}
    champion = best_of([newest, *older], best) if best else None
    for known in older:
        if known.name not in kept and known != champion:
            at.storage.remove(known.name)
            if known.shards:
                at.storage.remove(known.shards)


def best_of(snapshots: list[Snapshot], metric: str) -> Snapshot | None:
    """Return the snapshot with the highest value of a metric, or the lowest if a minus comes before its name."""
    sign, name = (-1, metric[1:]) if metric.startswith("-") else (1, metric)
    rated = [known for known in snapshots if not math.isnan(known.metric(fact_name(name)))]
    return max(rated, key=lambda known: (sign * known.metric(fact_name(name)), known.step), default=None)


def fact_name(name: str) -> str:
    """Return how a name, such as that of a metric, is written in a file's name."""
    return _NO_NAME_CHARACTER.sub("_", name)


def available(directory: str | Path) -> list[Snapshot]:
    """List the complete snapshots in a directory, the newest step first; none if there is no such directory."""
    return _available(place(directory))


def _available(at: Place) -> list[Snapshot]:
    found = []
    for name, time in at.storage.files().items():
        match = _NAME.fullmatch(name)
        if at.single == name:
            found.append(Snapshot(at.storage.where(name), _step_in(at, name), time))
        elif match and not at.single:
            found.append(Snapshot(at.storage.where(name), int(match[1]), time, _facts(match[3])))
    return sorted(found, key=lambda snapshot: (snapshot.step, snapshot.time), reverse=True)


def _facts(tail: str) -> dict[str, str]:
    return dict(fact.split("=", 1) for fact in tail.split(",")[1:])


def _step_in(at: Place, name: str) -> int:
    """Return the step that a file says it was written after, without reading its tensors; 0 if it does not."""
    with contextlib.suppress(Exception):
        with at.storage.open(name, "rb") as file:
            step = torch.load(file, map_location="meta", weights_only=True)["step"]
        return int(step)
    return 0


def newest(directory: str | Path) -> Snapshot | None:
    """Find the newest undamaged snapshot; None if there has never been one.

    A damaged file is set aside as ``<name>.corrupt`` with a warning and the one before it is taken.
    Raises SnapshotError when all are damaged: training again from the start must be somebody's decision.
    """
    at = place(directory)
    for candidate in _available(at):
        reason = head_damage(at, candidate) or _shards_damage(at, candidate)
        if reason is None:
            return candidate
        set_aside(at, candidate, reason)
    nothing_left(at)
    return None


def set_aside(at: Place, snapshot: Snapshot, reason: str) -> None:
    """Have nobody take a damaged snapshot for a good one. Raises SnapshotError if it is the only one by definition."""
    if at.single:
        raise SnapshotError(f"snapshot {snapshot.location} is damaged: {reason}; remove it to start from the beginning")
    logger.warning("snapshot %s is damaged: %s", snapshot.location, reason)
    at.storage.rename(snapshot.name, f"{snapshot.name}.corrupt")


def nothing_left(at: Place) -> None:
    """Raise SnapshotError if there are no snapshots because all have been set aside."""
    damaged = sorted(name for name in at.storage.files() if name.startswith(PREFIX) and name.endswith(".corrupt"))
    if damaged and not at.single:
        names = ", ".join(at.storage.where(name) for name in damaged)
        raise SnapshotError(f"all snapshots are damaged: {names}; remove them to start from the beginning")


def head_damage(at: Place, snapshot: Snapshot) -> str | None:
    """Say what is wrong with a snapshot's file; None if nothing is."""
    if at.single:
        return _zip_damage(at, snapshot.name)
    match = _NAME.fullmatch(snapshot.name)
    _, checksum = at.storage.checksum(snapshot.name)
    return None if match and match[2] == checksum else "its checksum differs"


def _zip_damage(at: Place, name: str) -> str | None:
    """Check the checksums that every ``torch.save`` file has inside; ``torch.load`` itself does not look at them."""
    try:
        with at.storage.open(name, "rb") as file, zipfile.ZipFile(file) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        return f"it is no complete torch.save file ({error})"
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return "it is no complete torch.save file (it says that it goes on before its beginning)"
    return f"the checksum of {bad} in it differs" if bad else None


def _shards_damage(at: Place, snapshot: Snapshot) -> str | None:
    if snapshot.shards is None:
        return None
    from torchrun_trainer.sharded import damage  # noqa: PLC0415 (it takes long)

    return damage(at.storage, snapshot.shards, manifest(read(at, snapshot)), 0, 1)


def load(snapshot: Snapshot, *, verify: bool = True, weights_only: bool = True) -> dict[str, Any]:
    """Read what ``save`` was given, tensors on the CPU; of sharded tensors only their names.

    ``weights_only=False`` unpickles arbitrary objects, that is runs what the file says. Raises SnapshotError when the
    file is missing, damaged, or no ``torch.save`` file of a dictionary.
    """
    parent = snapshot.location.rpartition("/")[0] if "://" in snapshot.location else snapshot.path.parent
    single = None if _NAME.fullmatch(snapshot.name) else snapshot.name
    return read(Place(storage(parent), single), snapshot, verify=verify, weights_only=weights_only)


def read(at: Place, snapshot: Snapshot, *, verify: bool = False, weights_only: bool = True) -> dict[str, Any]:
    """Do what ``load`` does."""
    try:
        reason = head_damage(at, snapshot) if verify else None
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
        what = str(error).splitlines()[0]
        raise SnapshotError(f"snapshot {snapshot.location} cannot be read: {what}") from error
    if not isinstance(state, dict):
        raise SnapshotError(
            f"snapshot {snapshot.location} holds a {type(state).__name__}: this library did not write it"
        )
    return state


def manifest(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the files that the shards of a snapshot consist of, with size and checksum."""
    files: dict[str, Any] = document["shards"]
    return {name: tuple(facts) for name, facts in files.items()}


def clean(at: Place) -> None:
    """Remove directories of shards that belong to no snapshot, as a process that was killed leaves them."""
    if at.single:
        return
    names = [name.removesuffix(".corrupt") for name in at.storage.files()]
    matches = [match for match in map(_NAME.fullmatch, names) if match]
    owned = {shards_directory(int(match[1]), {_SHARDS: "", **_facts(match[3])}) for match in matches}
    for directory in at.storage.directories():
        if re.fullmatch(rf"{_SHARDS}-\d{{12}}-\w+", directory) and directory not in owned:
            at.storage.remove(directory)
