"""Writer: brings one copy after another to the place of the snapshots, in a thread beside the training."""

from __future__ import annotations

import contextlib
import logging
import threading

from torchrun_trainer.launch.ranks import Ranks
from torchrun_trainer.snapshots import catalog, files
from torchrun_trainer.snapshots.best import Best
from torchrun_trainer.snapshots.copier import Copied, Copier
from torchrun_trainer.snapshots.owner import Owner
from torchrun_trainer.snapshots.place import Place
from torchrun_trainer.snapshots.snapshot import SHARDS, Snapshot, shards_directory

logger = logging.getLogger(__name__)


class Writer:
    """Writes one snapshot at a time. ``newest`` is the newest complete one, on rank 0.

    ``error`` is why the last one could not be written, until someone takes note of it; ``failures`` counts those in a
    row.
    """

    def __init__(self, at: Place, owner: Owner, copier: Copier, best: Best, ranks: Ranks, keep: int) -> None:
        self.newest: Snapshot | None = None
        self.error: BaseException | None = None
        self.failures = 0
        self._place = at
        self._owner = owner
        self._copier = copier
        self._best = best
        self._ranks = ranks
        self._keep = keep
        self._token = ""
        self._count = 0
        self._thread: threading.Thread | None = None

    def begin(self, token: str) -> None:
        """Name the shards of the next snapshots by the token of the place's owner."""
        self._token = token

    def start(self, copied: Copied) -> None:
        """Write a copy, on all ranks alike: rank 0 its document, and all ranks their shards."""
        facts = self._best.claim()
        self._count += 1
        if copied.write_shards:
            facts[SHARDS] = f"{self._token[:8]}{self._count:04x}"
        elif self._ranks.rank != 0:
            return
        self._copier.guard()
        # No daemon: the interpreter waits for it.
        thread = threading.Thread(target=self._write, args=(copied, facts), name="torchrun-trainer-snapshot")
        try:
            thread.start()
        except RuntimeError as error:  # the limit of threads is reached
            logger.warning("training waits for this snapshot: %s", error)
            self._copier.complete_here()
            self._write(copied, facts)
        else:
            self._thread = thread

    def busy(self) -> bool:
        """Return whether a snapshot is being written."""
        return self._thread is not None and self._thread.is_alive()

    def finish(self) -> None:
        """Wait for the snapshot that is being written."""
        if self._thread:
            self._copier.settle(wait=True)
            self._thread.join()
            self._thread = None
        self._copier.unguard()

    def fail(self, error: BaseException) -> None:
        """Note that a snapshot could not be written."""
        self.error = error
        self.failures += 1

    def take_error(self) -> BaseException | None:
        """Return why the last snapshot could not be written, once."""
        error, self.error = self.error, None
        return error

    def _write(self, copied: Copied, facts: dict[str, str]) -> None:
        directory = shards_directory(copied.step, facts) if copied.write_shards else None
        try:
            copied.complete()
            if directory and copied.write_shards:
                shards = copied.write_shards(directory)
                copied.document["shards"] = {name: list(file) for name, file in shards.items()}
            if self._ranks.rank == 0:
                self._publish(copied, directory, facts)
        except Exception as error:
            self._best.revoke()
            if directory and self._ranks.rank == 0 and not (self.newest and self.newest.shards == directory):
                with contextlib.suppress(Exception):
                    self._place.storage.remove(directory)
            self.fail(error)

    def _publish(self, copied: Copied, directory: str | None, facts: dict[str, str]) -> None:
        self._owner.check()
        if directory:
            self._place.storage.settle(directory)
        self.newest = files.write(self._place, copied.step, copied.document, facts)
        self.failures = 0
        catalog.prune(self._place, self.newest, self._keep, self._best.keep_best)
