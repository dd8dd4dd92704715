"""Hangs: a round whose workers report no further step must end.

Only the rendezvous host measures time, with one clock and while it runs. This module decides how long it waits, and
what follows. A round is identified by its number and the host process that counts it. So a hang counts once and ends
one round, even if the operator restarts in between.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from torchrun_operator.api.base import rfc3339
from torchrun_operator.api.v1alpha1 import RendezvousStatus
from torchrun_operator.core.facts.model import Facts
from torchrun_operator.core.findings.membership import Members
from torchrun_rendezvous.protocol import Pace, RendezvousState

LEAST_SECONDS = 300
"""Half of NCCL's own timeout, so that the stacks are written before NCCL ends the workers."""
LEAST_START_SECONDS = 600
GENEROSITY = 3
"""A pause of up to this many times the longest one so far is not a hang. A pause that a restart ended counts too, so a
phase that looked like a hang gets three times as long in the next round.
"""


@dataclass(frozen=True)
class Deadlines:
    """Maximum seconds of a round from one reported step to the next, and until the second one. None: no limit."""

    step: float | None = None
    start: float | None = None


@dataclass(frozen=True)
class Hang:
    """A round without progress for too long, not counted yet."""

    round: int
    step: int | None
    since: datetime
    seconds: float

    def __str__(self) -> str:
        """Describe what happened, for people."""
        after = f"after step {self.step}" if self.step is not None else "when the round began"
        return f"no step since {rfc3339(self.since)}, {after}; the deadline is {self.seconds:g} s"

    @property
    def told(self) -> str:
        """The description, and where to find more."""
        return f"{self}; see the stacks in the logs of the pods"


def deadlines(progress_deadline_seconds: int | None, pace: Pace) -> Deadlines:
    """Return how long to wait.

    A script that has not reported two steps in any round may not report at all, so its start has no limit. At the start
    of a round, the script imports, compiles and reads snapshots: the start has its own limit of at least 600 s.
    """
    if progress_deadline_seconds == 0:
        return Deadlines()
    step = float(progress_deadline_seconds or max(LEAST_SECONDS, GENEROSITY * pace.longest_pause_seconds))
    if pace.longest_start_seconds is None:
        return Deadlines(step)
    return Deadlines(step, max(LEAST_START_SECONDS, GENEROSITY * pace.longest_start_seconds, step))


@dataclass(frozen=True)
class Hangs:
    """How long rounds may take, and which one took longer."""

    limits: Deadlines
    recorded: int | None = None
    """The last round that was found to hang in the present host process."""
    new: Hang | None = None
    """The hang of the running round, if no status has counted it."""


def hangs(facts: Facts, members: Members) -> Hangs:
    """Return how long the rounds of the job may take, and the hang of the running round."""
    rendezvous = facts.rendezvous
    pace = rendezvous.pace if rendezvous is not None else Pace()
    limits = deadlines(facts.job.spec.progress_deadline_seconds, pace)
    recorded = recorded_hang(rendezvous, facts.job.status.rendezvous)
    return Hangs(limits, recorded, new_hang(rendezvous, recorded, members.leavers, limits))


def new_hang(
    rendezvous: RendezvousState | None, hung: int | None, leavers: Collection[str], limits: Deadlines
) -> Hang | None:
    """Return the hang of the running round, unless it was counted before or the round ends because a member leaves.

    ``hung`` is the last round that was found to hang. The host may have an older deadline: its report counts if it has
    waited long enough for the current one.
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
