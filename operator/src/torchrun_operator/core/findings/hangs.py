"""Hangs: a round whose workers report no further step has to end.

Only the rendezvous host measures time, with one clock and only while it lives. What is decided here is how long it
waits, and what follows. A round is identified by its number and the host process that counts it, so a hang is counted
once and ends one round, whatever restarts in between.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from torchrun_operator.api.base import rfc3339
from torchrun_operator.api.v1alpha1 import RendezvousStatus
from torchrun_operator.core.facts.model import Facts
from torchrun_rendezvous.protocol import Pace, RendezvousState

LEAST_SECONDS = 300
"""Half of NCCL's own timeout, so that the stacks are written before NCCL ends the workers."""
LEAST_START_SECONDS = 600
GENEROSITY = 3
"""A pause of up to this many times the longest one so far is no hang. A pause that was cut short counts too, so a
phase that was taken for a hang gets three times as long in the next round.
"""


@dataclass(frozen=True)
class Deadlines:
    """How many seconds a round may take from one reported step to the next, and to report two; None: forever."""

    step: float | None = None
    start: float | None = None


@dataclass(frozen=True)
class Hang:
    """A round that has made no progress for too long, not counted yet."""

    round: int
    step: int | None
    since: datetime
    seconds: float

    def __str__(self) -> str:
        """Describe what happened, for people."""
        after = f"after step {self.step}" if self.step is not None else "and the round began then"
        return f"no step since {rfc3339(self.since)}, {after}; the deadline is {self.seconds:g} s"

    @property
    def told(self) -> str:
        """The same, and where to look further."""
        return f"{self}; see the stacks in the logs of the pods"


def deadlines(progress_deadline_seconds: int | None, pace: Pace) -> Deadlines:
    """Return how long to wait.

    A script that has not done two steps in any round may not report at all, so its start has no limit. The start of
    a round imports, compiles and reads snapshots. It has a limit of its own, of at least 600 s.
    """
    if progress_deadline_seconds == 0:
        return Deadlines()
    step = float(progress_deadline_seconds or max(LEAST_SECONDS, GENEROSITY * pace.longest_pause_seconds))
    if pace.longest_start_seconds is None:
        return Deadlines(step)
    return Deadlines(step, max(LEAST_START_SECONDS, GENEROSITY * pace.longest_start_seconds, step))


def limits(facts: Facts) -> Deadlines:
    """Return how long the job's rounds may take."""
    pace = facts.rendezvous.pace if facts.rendezvous is not None else Pace()
    return deadlines(facts.job.spec.progress_deadline_seconds, pace)


def new_hang(
    rendezvous: RendezvousState | None, hung: int | None, leavers: Collection[str], limits: Deadlines
) -> Hang | None:
    """Return the hang of the running round, unless it was counted before or the round ends because a member leaves.

    ``hung`` is the last round that was found to hang. The host may have been given another deadline before: its
    report counts if it has waited long enough for this one.
    """
    if rendezvous is None or not rendezvous.complete or rendezvous.closed or rendezvous.finished:
        return None
    overdue = rendezvous.pace.overdue
    if overdue is None or overdue.round != rendezvous.round or hung == overdue.round:
        return None
    if not {member.address for member in rendezvous.members}.isdisjoint(leavers):
        return None
    limit = limits.start if overdue.starting else limits.step
    if limit is None or overdue.seconds < limit:
        return None
    return Hang(overdue.round, overdue.step, overdue.since, limit)


def recorded_hang(rendezvous: RendezvousState | None, recorded: RendezvousStatus) -> int | None:
    """Return the last round that was found to hang in the present host process."""
    if rendezvous is None or rendezvous.instance != recorded.instance:
        return None
    return recorded.hung_round
