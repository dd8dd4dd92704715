"""From facts to findings: each value is computed here, once, and whatever follows uses that value."""

from dataclasses import dataclass
from enum import StrEnum

from torchrun_operator.api.conditions import has_ended
from torchrun_operator.api.v1alpha1 import Straggler
from torchrun_operator.core.facts.model import Facts
from torchrun_operator.core.findings.completion import Completion, completion
from torchrun_operator.core.findings.counts import Counts, count
from torchrun_operator.core.findings.hangs import Deadlines, limits
from torchrun_operator.core.findings.membership import Members, members
from torchrun_operator.core.findings.reach import Reach, reach
from torchrun_operator.core.findings.size import Size, size
from torchrun_operator.core.findings.stragglers import straggler
from torchrun_operator.core.findings.stuck import Stuck, stuck
from torchrun_operator.core.findings.wanted import Wanted, wanted


class Stage(StrEnum):
    """What the job is asked to do."""

    ACTIVE = "Active"
    SUSPENDED = "Suspended"
    ENDED = "Ended"


@dataclass(frozen=True)
class Findings:
    """What the facts mean for the job."""

    stage: Stage
    name_taken: bool
    """A name that the job needs belongs to another owner, and the job has never trained: it runs nothing."""
    wanted: Wanted
    members: Members
    limits: Deadlines
    stuck: Stuck
    completion: Completion
    counts: Counts
    size: Size
    reach: Reach
    straggler: Straggler | None


def find(facts: Facts) -> Findings:
    """Return what the facts mean for the job. Each module is entered once, and sees only what was found before."""
    job, stage = facts.job, _stage(facts)
    active = stage is Stage.ACTIVE
    goal = wanted(job.spec, suspended=stage is Stage.SUSPENDED)
    round_ = members(facts, goal)
    deadlines = limits(facts)
    stuck_nodes = stuck(facts)
    end = completion(facts, goal.nodes) if active else Completion()
    counts = count(facts, goal, round_, deadlines, stuck_nodes, end, active=active)
    return Findings(
        stage=stage,
        name_taken=facts.name_taken and all(node.rank is None for node in job.status.nodes),
        wanted=goal,
        members=round_,
        limits=deadlines,
        stuck=stuck_nodes,
        completion=end,
        counts=counts,
        size=size(facts, goal, counts),
        reach=reach(facts),
        straggler=straggler(facts),
    )


def _stage(facts: Facts) -> Stage:
    if has_ended(facts.job.status.conditions):
        return Stage.ENDED
    return Stage.SUSPENDED if facts.job.spec.suspend else Stage.ACTIVE
