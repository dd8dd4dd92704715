"""Saver: takes the snapshots of a run beside its training, and restores the newest good one on all ranks."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchrun_trainer.launch.ranks import Ranks
from torchrun_trainer.snapshots import catalog, generators, restoring
from torchrun_trainer.snapshots.best import Best
from torchrun_trainer.snapshots.collective import on_rank_0
from torchrun_trainer.snapshots.copier import Copied, Copier, Stateful
from torchrun_trainer.snapshots.owner import OwnedError, Owner
from torchrun_trainer.snapshots.place import place
from torchrun_trainer.snapshots.snapshot import Snapshot, SnapshotError
from torchrun_trainer.snapshots.staging import UnsupportedError
from torchrun_trainer.snapshots.writer import Writer

logger = logging.getLogger(__name__)

MOST_FAILURES = 3
"""The training ends when so many snapshots in a row could not be written."""


class NoSaver:
    """The interface of ``Saver`` where nothing is saved, or a framework saves and sets ``newest``."""

    def __init__(self) -> None:
        self.newest: Snapshot | None = None
        self.blocked: float | None = None

    def restore(self) -> int:
        """Restore nothing: no step is done."""
        return 0

    def begin(self, *, take: bool = True) -> None:
        """Do nothing."""

    def rate(self, **metrics: Any) -> None:  # noqa: ANN401
        """Do nothing."""

    def improved(self) -> bool:
        """Return that no step is the best."""
        return False

    def step_done(self, step: int, *, due: bool, wait: bool) -> None:
        """Do nothing."""

    def busy(self) -> bool:
        """Return that nothing is being written."""
        return False

    def close(self) -> None:
        """Do nothing."""


class Saver:
    """The snapshots of a run; used on all ranks alike.

    Saving copies the state and leaves the writing to a thread. The thread also copies what only the next step of an
    optimizer changes; that step waits for it. One snapshot is written at a time, and the next one waits for it.

    With ``take``, the run owns the place from the beginning; otherwise from ``begin`` on.

    Raises:
        SnapshotError: the place cannot be written, or belongs to another live run; the state contains something that
            cannot be saved; ``keep_best`` in a place for a single file.

    """

    def __init__(
        self,
        location: str | Path,
        state: Mapping[str, Stateful],
        *,
        ranks: Ranks | None = None,
        keep: int = 2,
        keep_best: str | None = None,
        take: bool = True,
    ) -> None:
        self._ranks = ranks or Ranks()
        self._place = place(location)
        if keep_best and self._place.single:
            raise SnapshotError(f"keep_best needs a directory, and {location} is a file")
        self._copier = Copier(state, self._place, self._ranks)
        self._copier.look_through()
        self._best = Best(keep_best)
        self._owner = Owner(self._place.storage, f".{self._place.single or 'snapshots'}.owner")
        self._writer = Writer(self._place, self._owner, self._copier, self._best, self._ranks, keep)
        self._blocked: float | None = None
        self._generators: list[generators.State] = []
        if take:
            self._take_place()

    @property
    def newest(self) -> Snapshot | None:
        """The newest complete snapshot, on rank 0."""
        return self._writer.newest

    @property
    def blocked(self) -> float | None:
        """For how many seconds the last snapshot blocked the training; None before the first."""
        return None if self._blocked is None else self._blocked + self._copier.waited

    def restore(self) -> int:
        """Restore every object from the newest good snapshot; return the number of steps done when it was taken.

        Raises SnapshotError if there are snapshots, but none that is good and fits.
        """
        found = restoring.newest_good(self._place, self._ranks)
        if found is None:
            return 0
        if self._ranks.rank == 0:
            self._best.restore(self._place)
        document = restoring.load(self._place, found, self._copier, self._ranks)
        self._generators = document.get("generators", [])
        self._writer.newest = found
        return int(document["step"])

    def begin(self, *, take: bool = True) -> None:
        """Note that the steps begin: from here the random number generators continue as they did at the snapshot.

        Raises SnapshotError if another live run has taken the place since. Without ``take``, it may.
        """
        if take:
            self._take_place()
        saved, self._generators = self._generators, []
        generators.restore(saved, self._ranks.rank)

    def rate(self, **metrics: Any) -> None:  # noqa: ANN401
        """Take the values of the current step, of which ``keep_best`` names one."""
        self._best.rate(metrics)

    def improved(self) -> bool:
        """Return whether the current step is the best so far. Ask rank 0."""
        return self._best.improved()

    def step_done(self, step: int, *, due: bool, wait: bool) -> None:
        """End a step, on all ranks at once: take a snapshot if it is due. Raises as ``save`` and ``look`` do."""
        self.look()
        if due:
            self.save(step, wait=wait)
        self._best.step_done()

    def save(self, step: int, *, wait: bool) -> None:
        """Take a snapshot, on all ranks at once; ``wait`` until it is complete, and raise if it cannot be written.

        Raises SnapshotError if sharded state would go into a single file, and as ``look`` does.
        """
        began = time.monotonic()
        self.finish()
        self.look()
        copied = self._copier.copy(step)
        if isinstance(copied, Copied):
            self._writer.start(copied)
        else:
            self._writer.fail(copied)
            if self._ranks.rank != 0 and isinstance(copied, UnsupportedError):
                self._warn(copied)
        if wait:
            self.finish()
            error = self._writer.take_error()
            if error:
                raise SnapshotError(f"the snapshot of step {step} could not be written: {error}") from error
        self._blocked = time.monotonic() - began

    def look(self) -> None:
        """Check the snapshot that is being written, at no cost.

        If one could not be written, warn; the training continues, and the next snapshot is tried. Raises SnapshotError
        for the third in a row, and if another process has taken the place.
        """
        self._copier.settle(wait=False)
        error = self._writer.take_error()
        if error is None or self._ranks.rank != 0:
            return  # the error of another rank reaches rank 0 as well
        if isinstance(error, OwnedError):
            raise SnapshotError(f"{error}: this process must not write there any more") from error
        failures = self._writer.failures
        if failures >= MOST_FAILURES:
            raise SnapshotError(f"{failures} snapshots in a row could not be written: {error}") from error
        self._warn(error)

    def busy(self) -> bool:
        """Return whether a snapshot is being written."""
        return self._writer.busy()

    def finish(self) -> None:
        """Wait for the snapshot that is being written."""
        self._writer.finish()

    def close(self) -> None:
        """Wait for the snapshot that is being written, and release the place; ``begin`` takes it again."""
        self.finish()
        error = self._writer.take_error()
        if error and self._ranks.rank == 0:
            self._warn(error)
        self._owner.release()

    def _take_place(self) -> None:
        """Have rank 0 own the place."""

        def take() -> str:
            self._place.storage.prepare()
            self._owner.acquire()
            catalog.remove_orphans(self._place)
            return self._owner.token

        self._writer.begin(on_rank_0(self._ranks, self._place, take))

    def _warn(self, error: BaseException) -> None:
        newest = f"the newest is that of step {self.newest.step}" if self.newest else "there is none yet"
        logger.warning("a snapshot could not be written, %s: %s: %s", newest, type(error).__name__, error)


AnySaver = Saver | NoSaver
