"""status.membership: the nodes that train together, and the last change."""

from datetime import datetime

from torchrun_operator.api import v1alpha1 as api
from torchrun_operator.core.facts.model import Cause, Facts, Phase, Stage
from torchrun_operator.core.findings.failures import failed_at
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.status.running import only_unheard


def membership(facts: Facts, findings: Findings) -> api.Membership:
    """Return the membership. While the rendezvous host does not answer: the last known one."""
    old, rendezvous, spec = facts.job.status.membership, facts.rendezvous, facts.job.spec
    if findings.over:
        active = 0  # what still runs is about to be stopped
    elif rendezvous is None and (spec.outlives_host or only_unheard(facts)):
        active = min(old.nodes, sum(1 for node in facts.nodes if node.phase is Phase.RUNNING))
    else:
        active = len(findings.members.training)
    return api.Membership(
        round=_round(facts, findings),
        nodes=active,
        world_size=_world_size(facts, findings, active),
        desired_nodes=findings.wanted.nodes,
        spares=_ready_spares(facts, findings),
        summary=f"{active}/{spec.min_nodes}:{spec.max_nodes}",
        instance=rendezvous.instance if rendezvous is not None else old.instance,
        last_change=_last_change(facts, findings),
    )


def _round(facts: Facts, findings: Findings) -> int:
    """Return the number of the round, which grows over all host processes of the job."""
    if facts.rendezvous is None or findings.stage is not Stage.ACTIVE:
        return facts.job.status.membership.round
    return findings.counts.shown_round(facts.rendezvous.round)


def _ready_spares(facts: Facts, findings: Findings) -> int | None:
    """Return how many nodes wait beside a full round. None: the job has no spares."""
    if not facts.job.spec.elasticity.spares:
        return None
    if facts.rendezvous is None or not findings.members.full:
        return 0
    waiting = frozenset(facts.rendezvous.waiting)
    return sum(1 for node in facts.nodes if node.phase is Phase.RUNNING and node.address in waiting)


def _world_size(facts: Facts, findings: Findings, nodes: int) -> int | None:
    """Return the number of workers that train. None: it is unknown.

    The agents agree on it where the Kubernetes nodes may differ, else it is nodes times workers per node. What the
    script reports is of a certain round, so it counts once a step of this round has come.
    """
    rendezvous, old, per_node = facts.rendezvous, facts.job.status.membership, facts.job.spec.nproc_per_node
    if not nodes:
        return 0
    if rendezvous is None:  # the last known size, as far as it holds for the nodes that are left
        each = old.world_size // old.nodes if old.nodes and old.world_size else 0
        return old.world_size if nodes == old.nodes else nodes * each if each == per_node else None
    if rendezvous.world_size is not None:
        return rendezvous.world_size if nodes == len(rendezvous.members) else None
    if isinstance(per_node, int):
        return nodes * per_node
    progress, formed = rendezvous.progress, rendezvous.completed_at
    fresh = progress is not None and formed is not None and progress.time >= formed
    return progress.world_size if progress is not None and fresh else None


def _last_change(facts: Facts, findings: Findings) -> api.MembershipChange | None:
    """Return the newest change. It has the time of recovery once a later round has taken a step.

    For a script that reports no steps, it is the time until that round formed.
    """
    change = facts.job.status.membership.last_change
    if findings.stage is Stage.SUSPENDED:
        return change
    of_code = findings.failure.cause if findings.failure is not None else Cause.CODE  # a rule may ignore it
    if findings.losses.nodes:
        cause = findings.losses.nodes[0].cause
        return api.MembershipChange(time=facts.now, cause=of_code if cause is Cause.CODE else cause)
    if findings.workers.count:
        return api.MembershipChange(time=failed_at(facts) or facts.now, cause=of_code)
    if findings.counts.hang is not None:
        return api.MembershipChange(time=facts.now, cause=of_code)
    if findings.members.resized:
        return api.MembershipChange(time=facts.now, cause=Cause.RESIZE)
    return _recovered(facts, change)


def _recovered(facts: Facts, change: api.MembershipChange | None) -> api.MembershipChange | None:
    rendezvous = facts.rendezvous
    if change is None or change.recovery_seconds is not None or rendezvous is None or not rendezvous.complete:
        return change
    before, progress, formed = facts.job.status.progress, rendezvous.progress, rendezvous.completed_at
    if formed is None or formed <= change.time:
        return change
    if progress is None and before is None:
        return change.model_copy(update={"recovery_seconds": _seconds(change, formed)})
    if progress is None or progress.time < formed:
        return change  # steps of the previous round, which may continue for a while after the loss of a node
    lost = max(0, before.step - progress.step + 1) if before is not None and before.step is not None else None
    return change.model_copy(update={"recovery_seconds": _seconds(change, progress.time), "lost_steps": lost})


def _seconds(change: api.MembershipChange, trained: datetime) -> float:
    return round((trained - change.time).total_seconds(), 1)
