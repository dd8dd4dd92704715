"""Collective: what rank 0 does with the place of the snapshots, for all ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchrun_trainer.launch.ranks import Ranks
from torchrun_trainer.snapshots.owner import OwnedError
from torchrun_trainer.snapshots.place import Place
from torchrun_trainer.snapshots.snapshot import SnapshotError


def on_rank_0(ranks: Ranks, at: Place, action: Callable[[], Any]) -> Any:  # noqa: ANN401
    """Run ``action`` on rank 0; return its result on all ranks, or raise its error on all as a SnapshotError."""

    def readable() -> Any:  # noqa: ANN401
        try:
            return action()
        except SnapshotError:
            raise
        except Exception as error:
            kind = "" if isinstance(error, OwnedError) else f"{type(error).__name__}: "
            raise SnapshotError(f"{at.location} cannot be used for snapshots: {kind}{error}") from error

    return ranks.on_rank_0(readable)
