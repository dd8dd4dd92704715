"""Leading: of all replica groups, only the first saves snapshots."""

from __future__ import annotations

from typing import Any

from torchrun_trainer.per_step.members import Members
from torchrun_trainer.snapshots.saver import AnySaver, NoSaver
from torchrun_trainer.snapshots.snapshot import Snapshot


class LeadSaver(NoSaver):
    """Passes everything on to the saver of the own group while this group is the first one."""

    def __init__(self, saver: AnySaver, members: Members) -> None:
        self._saver = saver
        self._members = members
        self._leads = False

    @property
    def newest(self) -> Snapshot | None:  # type: ignore[override]
        """The newest snapshot that this group has taken or restored."""
        return self._saver.newest

    @property
    def blocked(self) -> float | None:  # type: ignore[override]
        """For how many seconds the last snapshot blocked the training."""
        return self._saver.blocked

    def restore(self) -> int:
        """Restore every object from the newest good snapshot; return the number of steps done."""
        return self._saver.restore()

    def begin(self, *, take: bool = True) -> None:
        """Begin, without the place: until the first step each group is the first one that it knows."""
        del take
        self._saver.begin(take=False)

    def rate(self, **metrics: Any) -> None:  # noqa: ANN401
        """Take the values of the current step."""
        self._saver.rate(**metrics)

    def improved(self) -> bool:
        """Return whether the current step is the best so far."""
        return self._members.leads and self._saver.improved()

    def step_done(self, step: int, *, due: bool, wait: bool) -> None:
        """End a step; take a snapshot if it is due, and this group is the first."""
        led, self._leads = self._leads, self._members.leads
        if self._leads:
            if not led:
                self._saver.begin()
            self._saver.step_done(step, due=due, wait=wait)
        elif led:
            self._saver.close()

    def busy(self) -> bool:
        """Return whether a snapshot is being written."""
        return self._saver.busy()

    def close(self) -> None:
        """Wait for the snapshot that is being written, and release the place."""
        if self._leads:
            self._leads = False
            self._saver.close()
