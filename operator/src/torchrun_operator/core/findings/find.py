"""From facts to findings: each value is computed here once, and all later steps use it."""

from dataclasses import dataclass, replace
from datetime import datetime

from torchrun_operator.api.conditions import Reason
from torchrun_operator.api.v1alpha1 import Failure, FailureAction, Straggler
from torchrun_operator.core.facts.model import Facts, Stage
from torchrun_operator.core.findings.backoff import NO_BACK_OFF, BackOffs, back_off
from torchrun_operator.core.findings.completion import Completion, completion
from torchrun_operator.core.findings.counts import Counts, count
from torchrun_operator.core.findings.deadline import deadline
from torchrun_operator.core.findings.expiry import expiry
from torchrun_operator.core.findings.hangs import Hangs, hangs
from torchrun_operator.core.findings.leftovers import Leftovers, leftovers
from torchrun_operator.core.findings.losses import Loss, Losses, losses
from torchrun_operator.core.findings.membership import Members, members
from torchrun_operator.core.findings.reach import Reach, reach
from torchrun_operator.core.findings.size import Size, size
from torchrun_operator.core.findings.stopping import Stopping, stopping
from torchrun_operator.core.findings.stragglers import straggler
from torchrun_operator.core.findings.stuck import Stuck, stuck
from torchrun_operator.core.findings.together import Together, together
from torchrun_operator.core.findings.uploads import Uploads, uploads
from torchrun_operator.core.findings.verdict import Verdict, verdict
from torchrun_operator.core.findings.waits import Waits, waits
from torchrun_operator.core.findings.wanted import Wanted, wanted
from torchrun_operator.core.findings.workers import NO_FAILURES, WorkerFailures, worker_failures


@dataclass(frozen=True)
class Findings:
    """What the facts mean for the job."""

    stage: Stage
    name_taken: bool
    """A name that the job needs belongs to another owner, and the job has never trained: it runs nothing."""
    wanted: Wanted
    members: Members
    stuck: Stuck
    completion: Completion
    losses: Losses
    together: Together
    hangs: Hangs
    workers: WorkerFailures
    counts: Counts
    failure: Failure | None
    """The newest failure, if this pass counts one."""
    moved: Loss | None
    """The node whose pod is replaced because its workers failed again in a way that a rule ignores."""
    back_off: BackOffs
    size: Size
    reach: Reach
    straggler: Straggler | None
    stopping: Stopping
    waits: Waits
    deadline: datetime | None
    """When the job fails because it is active for too long."""
    failing: Reason | None
    """Why the job fails now."""
    leftovers: Leftovers
    uploads: Uploads
    expiry: datetime | None
    """When the job is deleted because it ended long ago."""

    @property
    def over(self) -> bool:
        """Whether the job has ended, or ends now."""
        return self.stage is Stage.ENDED or self.completion.complete or self.failing is not None


def find(facts: Facts) -> Findings:
    """Return what the facts mean for the job. Each module is entered once, and uses only earlier findings."""
    job, stage = facts.job, facts.stage
    active = stage is Stage.ACTIVE
    goal = wanted(job.spec, suspended=stage is Stage.SUSPENDED)
    round_ = members(facts, goal)
    stuck_nodes = stuck(facts)
    end = completion(facts, goal.nodes) if active else Completion()
    counts_losses = active and not (end.complete and job.spec.static)  # nodes that fail once the lead is done
    lost = losses(facts, goal, round_, stuck_nodes) if counts_losses else Losses()
    hung = hangs(facts, round_)
    workers = worker_failures(facts, lost, round_) if active else NO_FAILURES
    judged = verdict(facts, lost, workers, hung) if active else Verdict()
    counts = count(facts, round_, lost, hung, workers, end, judged, active=active)
    ends_at = deadline(facts) if active else None
    failing = _failing(facts, end, counts, ends_at, judged.action)
    left = leftovers(facts, goal)
    upload = uploads(facts)
    gone = replace(lost, nodes=(*lost.nodes, judged.moved)) if judged.moved is not None else lost
    backed_off = back_off(facts, goal, gone) if active and failing is None else NO_BACK_OFF
    return Findings(
        stage=stage,
        name_taken=facts.name_taken and all(node.rank is None for node in job.status.nodes),
        wanted=goal,
        members=round_,
        stuck=stuck_nodes,
        completion=end,
        losses=lost,
        together=together(facts, lost, left) if active else Together(),
        hangs=hung,
        workers=workers,
        counts=counts,
        failure=judged.failure if counts.fresh else None,
        moved=judged.moved,
        back_off=backed_off,
        size=size(facts, goal, backed_off, left),
        reach=reach(facts),
        straggler=straggler(facts),
        stopping=stopping(facts, goal),
        waits=waits(facts, goal),
        deadline=ends_at,
        failing=failing,
        leftovers=left,
        uploads=upload,
        expiry=expiry(facts, upload),
    )


def _failing(
    facts: Facts, end: Completion, counts: Counts, ends_at: datetime | None, action: FailureAction
) -> Reason | None:
    if counts.exhausted and action is FailureAction.FAIL_JOB:
        return Reason.FAILURE_POLICY
    if counts.exhausted:
        return Reason.PROGRESS_DEADLINE_EXCEEDED if counts.hang else Reason.MAX_RESTARTS_EXCEEDED
    if end.no_round:
        return Reason.NEVER_TRAINED
    late = ends_at is not None and facts.now >= ends_at and not end.complete
    return Reason.DEADLINE_EXCEEDED if late else None
