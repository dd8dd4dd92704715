"""Catalog: which snapshots a place holds, which of them to keep, and which are damaged."""

from __future__ import annotations

import contextlib
import logging
import math
import re
from pathlib import Path

import torch

from torchrun_trainer.snapshots import files
from torchrun_trainer.snapshots.place import Place, place
from torchrun_trainer.snapshots.snapshot import (
    PREFIX,
    SHARDS,
    Snapshot,
    SnapshotError,
    fact_name,
    parse_name,
    shards_directory,
)

logger = logging.getLogger(__name__)


def available(location: str | Path) -> list[Snapshot]:
    """List the complete snapshots at a path or URL, the newest step first; none if there is no such directory."""
    return available_at(place(location))


def available_at(at: Place) -> list[Snapshot]:
    """List the complete snapshots in a place, the newest step first."""
    found = []
    for name, time in at.storage.files().items():
        parsed = parse_name(name)
        if at.single == name:
            found.append(Snapshot(at.storage.where(name), _step_in(at, name), time))
        elif parsed and not at.single:
            found.append(Snapshot(at.storage.where(name), parsed.step, time, parsed.facts))
    return sorted(found, key=lambda snapshot: (snapshot.step, snapshot.time), reverse=True)


def _step_in(at: Place, name: str) -> int:
    """Return the step that a file contains, without reading its tensors; 0 without one."""
    with contextlib.suppress(Exception):
        with at.storage.open(name, "rb") as file:
            step = torch.load(file, map_location="meta", weights_only=True)["step"]
        return int(step)
    return 0


def newest_undamaged(at: Place) -> Snapshot | None:
    """Return the newest snapshot whose own file is good (its shards are not looked at); None if there are no snapshots.

    Damaged ones are set aside. Raises SnapshotError as ``set_aside`` and ``refuse_only_damaged`` do.
    """
    for candidate in available_at(at):
        reason = files.damage(at, candidate)
        if reason is None:
            return candidate
        set_aside(at, candidate, reason)
    refuse_only_damaged(at)
    return None


def set_aside(at: Place, snapshot: Snapshot, reason: str) -> None:
    """Rename a damaged snapshot, so that it is not used again. Raises SnapshotError in a place for a single file."""
    if at.single:
        raise SnapshotError(f"snapshot {snapshot.location} is damaged: {reason}; remove it to start from the beginning")
    logger.warning("snapshot %s is damaged: %s", snapshot.location, reason)
    at.storage.rename(snapshot.name, f"{snapshot.name}.corrupt")


def refuse_only_damaged(at: Place) -> None:
    """Raise SnapshotError if damaged snapshots are the only ones."""
    damaged = sorted(name for name in at.storage.files() if name.startswith(PREFIX) and name.endswith(".corrupt"))
    if damaged and not at.single:
        names = ", ".join(at.storage.where(name) for name in damaged)
        raise SnapshotError(f"all snapshots are damaged: {names}; remove them to start from the beginning")


def prune(at: Place, newest: Snapshot, keep: int, best: str | None = None) -> None:
    """Remove snapshots up to the step of ``newest``, except the newest ``keep`` and the best by a metric.

    ``-name`` as ``best`` means that the lowest value is the best.
    """
    if at.single:
        return
    older = [known for known in available_at(at) if known.step <= newest.step and known.name != newest.name]
    kept = {newest.name, *(known.name for known in older[: max(keep, 1) - 1])}
    champion = best_of([newest, *older], best) if best else None
    for known in older:
        if known.name not in kept and known != champion:
            at.storage.remove(known.name)
            if known.shards:
                at.storage.remove(known.shards)


def best_of(snapshots: list[Snapshot], metric: str) -> Snapshot | None:
    """Return the snapshot with the highest value of a metric, or the lowest if its name begins with a minus."""
    sign, name = (-1, metric[1:]) if metric.startswith("-") else (1, metric)
    rated = [known for known in snapshots if not math.isnan(known.metric(fact_name(name)))]
    return max(rated, key=lambda known: (sign * known.metric(fact_name(name)), known.step), default=None)


def remove_orphans(at: Place) -> None:
    """Remove directories of shards that belong to no snapshot, as a killed process leaves them."""
    if at.single:
        return
    parsed = [parse_name(name.removesuffix(".corrupt")) for name in at.storage.files()]
    owned = {shards_directory(name.step, {SHARDS: "", **name.facts}) for name in parsed if name}
    for directory in at.storage.directories():
        if re.fullmatch(rf"{SHARDS}-\d{{12}}-\w+", directory) and directory not in owned:
            at.storage.remove(directory)
