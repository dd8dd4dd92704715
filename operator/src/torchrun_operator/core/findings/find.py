"""From facts to findings: each value is computed here, once, and whatever follows uses that value."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from torchrun_operator.api.conditions import has_ended
from torchrun_operator.api.v1alpha1 import Straggler
from torchrun_operator.core.facts.model import Facts, NodePod, Phase
from torchrun_operator.core.findings.causes import failed_by_code
from torchrun_operator.core.findings.completion import Completion, completion
from torchrun_operator.core.findings.counts import Counts, count, nothing_new
from torchrun_operator.core.findings.hangs import Deadlines, deadlines, recorded_hang
from torchrun_operator.core.findings.membership import (
    idle,
    is_full,
    leavers,
    ranks,
    reachable_host,
    services_due,
    training,
)
from torchrun_operator.core.findings.size import Wanted, absences, held, patience_ends, round_size, wanted
from torchrun_operator.core.findings.stragglers import straggler
from torchrun_operator.core.findings.stuck import orphaned, why_stuck
from torchrun_rendezvous.protocol import Pace


class Stage(StrEnum):
    """What the job is asked to do."""

    ACTIVE = "Active"
    SUSPENDED = "Suspended"
    ENDED = "Ended"


@dataclass(frozen=True)
class Findings:
    """What the facts mean for the job."""

    stage: Stage
    wanted: Wanted
    completion: Completion
    counts: Counts
    exhausted: bool
    """The code failed more often than spec.maxRestarts allows."""
    name_taken: bool
    """A name that the job needs belongs to another owner, and the job has never trained: it runs nothing."""
    training: tuple[NodePod, ...]
    """The nodes that train now."""
    ranks: Mapping[str, int]
    """The group rank of each member of the complete round, by address."""
    full: bool
    """A complete round has all wanted nodes: the nodes outside it are spares."""
    idle: tuple[NodePod, ...]
    """The recorded spares that have not taken part since."""
    surplus: frozenset[str]
    """Live nodes beyond those that should exist, by uid."""
    leavers: tuple[str, ...]
    """Addresses that must not be members of a round."""
    absent: Mapping[int, str]
    """The nodes that nobody waits for, by index, and why."""
    held: Mapping[int, datetime]
    """Failed nodes that may not be replaced yet, by index, and when they may."""
    round_size: int
    """How many nodes the next round should have."""
    stuck: Mapping[str, str]
    """The running nodes that cannot come to the next round, by uid, and why."""
    limits: Deadlines
    hung_round: int | None
    """The last round that was found to hang in the present host process."""
    straggler: Straggler | None
    host: str | None
    """The address of the rendezvous host, if the operator may talk to it."""
    services_due: datetime | None
    """From when on the job's services should exist."""
    later: tuple[datetime, ...]
    """Times at which these findings change although nothing happens."""


def find(facts: Facts) -> Findings:
    """Return what the facts mean for the job."""
    job, rendezvous = facts.job, facts.rendezvous
    stage = _stage(facts)
    goal = wanted(job.spec, suspended=stage is Stage.SUSPENDED)
    full = is_full(facts, goal.nodes)
    out = leavers(facts, goal.nodes, goal.spares)
    pace = rendezvous.pace if rendezvous is not None else Pace()
    limits = deadlines(job.spec.progress_deadline_seconds, pace)
    orphans = orphaned(facts)
    stuck = why_stuck(facts, orphans)
    active = stage is Stage.ACTIVE
    end = completion(facts, goal.nodes) if active else Completion()
    counts = count(facts, goal, out, limits, stuck, full=full) if active else nothing_new(facts)
    absent = absences(facts)
    exhausted = active and counts.restarts.code > job.spec.max_restarts and not end.complete
    held_back = _held(facts, counts) if active and not exhausted else {}
    return Findings(
        stage=stage,
        wanted=goal,
        completion=end,
        counts=counts,
        exhausted=exhausted,
        name_taken=facts.name_taken and all(node.rank is None for node in job.status.nodes),
        training=training(facts, goal.pods),
        ranks=ranks(facts),
        full=full,
        idle=idle(facts),
        surplus=frozenset(node.uid for node in facts.nodes if node.live and node.index >= goal.pods),
        leavers=out,
        absent=absent,
        held=held_back,
        round_size=round_size(goal, {*absent, *held_back}),
        stuck=stuck,
        limits=limits,
        hung_round=recorded_hang(rendezvous, counts.bookkeeping) if active else None,
        straggler=straggler(facts),
        host=reachable_host(facts),
        services_due=services_due(facts),
        later=_later(facts, goal, counts, held_back, orphans[0]),
    )


def _stage(facts: Facts) -> Stage:
    if has_ended(facts.job.status.conditions):
        return Stage.ENDED
    return Stage.SUSPENDED if facts.job.spec.suspend else Stage.ACTIVE


def _held(facts: Facts, counts: Counts) -> dict[int, datetime]:
    by_code = {
        node.uid: failed_by_code(node, facts.job.status.nodes, facts.rendezvous, counts.bookkeeping)
        for node in facts.nodes
        if node.phase is Phase.FAILED
    }
    return held(facts.nodes, counts.restarts.code, by_code, facts.now)


def _later(
    facts: Facts, goal: Wanted, counts: Counts, held_back: Mapping[int, datetime], orphans_given_up_at: datetime | None
) -> tuple[datetime, ...]:
    times = [*held_back.values(), *patience_ends(facts, goal.pods), orphans_given_up_at]
    return tuple(time for time in times if time is not None and time > facts.now)
