"""The complete status of a job, from its findings and its plan."""

from torchrun_operator.api import v1alpha1 as api
from torchrun_operator.api.conditions import Condition, ConditionType, is_true, set_condition
from torchrun_operator.api.names import node_selector
from torchrun_operator.core.facts.model import Cause, Facts, Phase, Stage
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.policies.plan import Plan
from torchrun_operator.core.status.accepted import accepted
from torchrun_operator.core.status.complete import complete
from torchrun_operator.core.status.failed import failed
from torchrun_operator.core.status.goodput import goodput
from torchrun_operator.core.status.headline import headline
from torchrun_operator.core.status.membership import membership
from torchrun_operator.core.status.nodes import nodes
from torchrun_operator.core.status.outputs import outputs
from torchrun_operator.core.status.outputs_uploaded import outputs_uploaded
from torchrun_operator.core.status.progress import progress
from torchrun_operator.core.status.resizing import resizing
from torchrun_operator.core.status.rounds import rounds
from torchrun_operator.core.status.running import running
from torchrun_operator.core.status.scheduled import scheduled
from torchrun_operator.core.status.straggling import straggling
from torchrun_operator.core.status.suspended import suspended
from torchrun_operator.core.status.verdict import Verdict

_STATES = (
    (ConditionType.FAILED, api.JobState.FAILED),
    (ConditionType.COMPLETE, api.JobState.COMPLETE),
    (ConditionType.SUSPENDED, api.JobState.SUSPENDED),
    (ConditionType.RESIZING, api.JobState.RESIZING),
    (ConditionType.RUNNING, api.JobState.RUNNING),
)
"""The first of these conditions that is True decides the state of the job."""


def report(facts: Facts, findings: Findings, plan: Plan) -> api.TorchrunJobStatus:
    """Return the complete status. The same facts give the same status."""
    old, job, now, counts = facts.job.status, facts.job, facts.now, findings.counts
    ended = findings.stage is Stage.ENDED
    # Once a job has ended, its status changes only with the observed pods.
    deleted = frozenset() if ended else frozenset(deletion.uid for deletion in plan.deletions)
    live = [node for node in facts.nodes if node.live and node.uid not in deleted]
    trains = membership(facts, findings)
    conditions = _conditions(facts, findings, plan, trains)
    state = _state(conditions, facts)
    return api.TorchrunJobStatus(
        observed_generation=job.metadata.generation,
        state=state,
        message=headline(state, conditions, trains.last_change, findings.failure or old.last_failure, now),
        conditions=conditions,
        replicas=min(findings.wanted.nodes, len(live)),
        ready_replicas=min(findings.wanted.nodes, sum(1 for node in live if node.phase is Phase.RUNNING)),
        selector=node_selector(job.metadata.name),
        membership=trains,
        restarts=counts.restarts,
        restart_count=sum(getattr(counts.restarts, cause) for cause in Cause if cause is not Cause.RESIZE),
        last_failure=findings.failure or old.last_failure,
        rendezvous=counts.bookkeeping,
        refusal=_refusal(facts),
        progress=progress(facts),
        goodput=goodput(facts, findings),
        rounds=rounds(facts, findings, trains),
        straggler=findings.straggler,
        start_time=old.start_time or now,
        completion_time=old.completion_time or (now if findings.over else None),
        outputs=outputs(facts, findings),
        upload=findings.uploads.record,
        nodes=nodes(facts, findings, deleted),
    )


def _conditions(facts: Facts, findings: Findings, plan: Plan, trains: api.Membership) -> tuple[Condition, ...]:
    conditions = facts.job.status.conditions
    for verdict in _verdicts(facts, findings, plan, trains):
        conditions = set_condition(
            conditions,
            verdict.type,
            verdict.status,
            verdict.reason,
            verdict.message,
            now=facts.now,
            generation=facts.job.metadata.generation,
        )
    return conditions


def _verdicts(facts: Facts, findings: Findings, plan: Plan, trains: api.Membership) -> list[Verdict]:
    """Return all conditions that apply. Those of an ended job never change, except the one about its outputs."""
    upload = outputs_uploaded(facts, findings)
    if findings.stage is Stage.ENDED:
        return upload
    return [
        accepted(facts),
        suspended(facts, findings),
        scheduled(facts, findings),
        running(facts, findings, trains),
        resizing(facts, findings, plan, trains),
        *straggling(facts, findings),
        *complete(facts, findings),
        *failed(facts, findings),
        *upload,
    ]


def _state(conditions: tuple[Condition, ...], facts: Facts) -> api.JobState:
    found = next((state for type_, state in _STATES if is_true(conditions, type_)), None)
    if found is not None:
        return found
    if not is_true(conditions, ConditionType.ACCEPTED):
        return api.JobState.INVALID
    placed = is_true(conditions, ConditionType.SCHEDULED) and bool(facts.nodes)
    return api.JobState.STARTING if placed else api.JobState.PENDING


def _refusal(facts: Facts) -> api.Refusal | None:
    """Record the refusal, so that a restarted operator knows it without a further request."""
    if not facts.refusal:
        return None
    return api.Refusal(message=facts.refusal, name_taken=facts.name_taken)
