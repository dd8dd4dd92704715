"""Hangs: a round whose workers report no further step has to end, and who does not come to the next one is replaced.

Only the rendezvous host measures time, with one clock and only while it lives; what is decided here is how long it
waits, and what follows. A round is named by its number and the host process that counts it, so it is counted once and
ended once, whoever restarts in between.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from torchrun_operator.api.base import rfc3339
from torchrun_operator.api.v1alpha1 import RendezvousStatus, TorchrunJob
from torchrun_operator.core.accounting import Loss
from torchrun_operator.core.membership import leavers
from torchrun_operator.core.observed import Cause, NodePod, Observed, Pace, Phase, Rendezvous

LEAST_SECONDS = 300
"""Half of NCCL's own time-out, so that stacks are there before it ends the workers."""
LEAST_START_SECONDS = 600
GENEROSITY = 3
"""How many times the longest pause so far is no hang. One that was cut short counts too, so a phase that was taken
for a hang has three times as long in the next round."""
MISSING = "did not come to the next round: its agent hangs, or its machine does"
ORPHANED = "its agent waits for a store that has gone"
_ORPHANED_AFTER = timedelta(seconds=5)
"""Where the connection is closed with the store, agents end within a second or two."""


@dataclass(frozen=True)
class Deadlines:
    """How many seconds a round may take from one reported step to the next, and to report two; None: for ever."""

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
        """Say what happened, for people."""
        after = f"after step {self.step}" if self.step is not None else "and the round began then"
        return f"no step since {rfc3339(self.since)}, {after}; {self.seconds:g} s are allowed"

    @property
    def told(self) -> str:
        """The same, and where to look further."""
        return f"{self}; their stacks are in the pods' logs"


def deadlines(progress_deadline_seconds: int | None, pace: Pace) -> Deadlines:
    """Return how long to wait.

    Nothing is known of a script that has not got two steps done in any round: it may not report at all. The start of
    a round, which imports, compiles and reads snapshots, has its own measure: no start has less than 600 s.
    """
    if progress_deadline_seconds == 0:
        return Deadlines()
    step = float(progress_deadline_seconds or max(LEAST_SECONDS, GENEROSITY * pace.longest_pause_seconds))
    if pace.longest_start_seconds is None:
        return Deadlines(step)
    return Deadlines(step, max(LEAST_START_SECONDS, GENEROSITY * pace.longest_start_seconds, step))


def new_hang(job: TorchrunJob, observed: Observed, recorded: RendezvousStatus) -> Hang | None:
    """Return the hang of the round that runs, unless it has been counted, or ends because a member is to leave.

    The host may have been told another deadline before: what it says counts if it has waited long enough for this one.
    """
    rendezvous = observed.rendezvous
    if rendezvous is None or not rendezvous.complete or rendezvous.closed or rendezvous.finished:
        return None
    overdue = rendezvous.pace.overdue
    if overdue is None or overdue.round != rendezvous.round or hung_round(rendezvous, recorded) == overdue.round:
        return None
    if not {address for address, _ in rendezvous.members}.isdisjoint(
        leavers(observed, job.spec.wanted_nodes, job.spec.elasticity.spares)
    ):
        return None
    limits = deadlines(job.spec.progress_deadline_seconds, rendezvous.pace)
    limit = limits.start if overdue.starting else limits.step
    if limit is None or overdue.seconds < limit:
        return None
    return Hang(overdue.round, overdue.step, overdue.since, limit)


def hung_round(rendezvous: Rendezvous | None, recorded: RendezvousStatus) -> int | None:
    """Return the last round that was found to hang in the host process that there is now."""
    if rendezvous is None or rendezvous.instance != recorded.instance:
        return None
    return recorded.hung_round


def stuck(job: TorchrunJob, observed: Observed, known: Iterable[Loss], now: datetime) -> tuple[Loss, ...]:
    """Return the nodes that were in a round that had to end and are not in the next after a minute, not counted yet;
    and those whose store has gone.

    torchrun gives workers 30 s to stop before it kills them: who needs longer has an agent or a machine that hangs.
    """
    counted = {node.uid for node in job.status.nodes if node.phase == Phase.TERMINATING}
    lost = {loss.pod for loss in known}
    counted |= {node.uid for node in observed.nodes if node.name in lost}
    why = why_stuck(job, observed, now)
    return tuple(
        Loss(node.index, node.name, Cause.INFRASTRUCTURE, why[node.uid])
        for node in observed.nodes
        if node.uid in why and node.index < job.spec.node_pods and node.uid not in counted
    )


def why_stuck(job: TorchrunJob, observed: Observed, now: datetime) -> dict[str, str]:
    """Say why nodes that run cannot come to the round that forms, or has formed without them, by uid."""
    if observed.rendezvous is None:
        return {}
    at, orphans = orphaned(job, observed)
    why = dict.fromkeys(orphans, ORPHANED) if at is not None and at <= now else {}
    missing = frozenset(observed.rendezvous.missing)
    return why | {node.uid: MISSING for node in _running(observed) if node.address in missing}


def orphaned(job: TorchrunJob, observed: Observed) -> tuple[datetime | None, frozenset[str]]:
    """Return the uids of the nodes that know another store than there is now, and when they are given up.

    A machine that loses its power and is back before anybody has missed it closes no connection. The agents of other
    nodes then wait for an answer for a minute, and hang when they try to tell the store that they leave.
    """
    rendezvous, recorded = observed.rendezvous, job.status.rendezvous
    if rendezvous is None or rendezvous.complete or rendezvous.round > 0:
        return None, frozenset()
    if recorded is None or recorded.instance != rendezvous.instance or recorded.since is None:
        return None, frozenset()
    joined = {address for address, _ in rendezvous.members} | set(rendezvous.waiting)
    # This store's first round is still open: who has trained, or waited as a spare, did so with one before it.
    trained = {known.uid for known in job.status.nodes if known.rank is not None or known.spare}
    orphans = frozenset(n.uid for n in _running(observed) if n.uid in trained and n.address not in joined)
    return (recorded.since + _ORPHANED_AFTER if orphans else None), orphans


def _running(observed: Observed) -> list[NodePod]:
    return [node for node in observed.nodes if node.phase is Phase.RUNNING]
