"""Restoring: finds the newest good snapshot on all ranks, and gives its states to the objects of the run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torchrun_trainer.launch.ranks import Ranks
from torchrun_trainer.snapshots import catalog, files
from torchrun_trainer.snapshots.collective import on_rank_0
from torchrun_trainer.snapshots.copier import FORMAT, Copier
from torchrun_trainer.snapshots.place import Place
from torchrun_trainer.snapshots.snapshot import Snapshot, SnapshotError


def newest_good(at: Place, ranks: Ranks) -> Snapshot | None:
    """Return the newest snapshot all of whose files are good; each rank checks its part of the shards.

    Raises SnapshotError if there are snapshots, and all are damaged.
    """
    while True:
        found: Snapshot | None = on_rank_0(ranks, at, partial(catalog.newest_undamaged, at))
        if found is None or found.shards is None:
            return found
        reasons = ranks.values(files.shards_damage(at, found, ranks.rank, ranks.size))
        reason = next(filter(None, reasons), None)
        if reason is None:
            return found
        on_rank_0(ranks, at, partial(catalog.set_aside, at, found, reason))


def load(at: Place, found: Snapshot, copier: Copier, ranks: Ranks) -> dict[str, Any]:
    """Load a snapshot's states into the objects of the run; return its document.

    Raises SnapshotError if it does not fit, or ``Run`` did not write it.
    """
    document = files.read(at, found, verify=ranks.rank != 0)
    states = _checked(document, found)
    if states.keys() != copier.state.keys():
        raise SnapshotError(
            f"snapshot {found.location} holds {sorted(states)}, but this run has {sorted(copier.state)}"
        )
    live, reader = copier.look_through(), None
    if found.shards or copier.sharded:
        from torchrun_trainer.snapshots.sharded import ShardReader  # noqa: PLC0415 (a slow import)

        reader = ShardReader(at.storage, found.shards)
    for name, stateful in copier.state.items():
        try:
            state = reader.fill(name, states[name], live[name], stateful) if reader else states[name]
            stateful.load_state_dict(state)
        except Exception as error:
            raise SnapshotError(f"snapshot {found.location} does not fit {name!r}: {error}") from error
    return document


def _checked(document: Mapping[str, Any], found: Snapshot) -> dict[str, Any]:
    """Return the states in a snapshot. Raises SnapshotError if ``Run`` did not write it, or a newer one did."""
    version = document.get("format", 1)
    if isinstance(version, int) and version > FORMAT:
        raise SnapshotError(
            f"snapshot {found.location} has format {version}, this library knows formats up to {FORMAT}: "
            "install the torchrun-trainer that wrote it, or a newer one"
        )
    states = document.get("state")
    if not isinstance(version, int) or not isinstance(states, dict) or not isinstance(document.get("step"), int):
        raise SnapshotError(
            f"{found.location} was not written by Run: it holds {sorted(map(str, document))}; "
            "use another snapshot path, or move the file away to start from the beginning"
        )
    return states
