"""status.nodes: one entry per node."""

from torchrun_operator.api import v1alpha1 as api
from torchrun_operator.core.facts.model import Facts, NodePod, Phase, Stage
from torchrun_operator.core.findings.find import Findings


def nodes(facts: Facts, findings: Findings, deleted: frozenset[str]) -> tuple[api.NodeStatus, ...]:
    """List the nodes by index. A node whose pod is gone stays, as lost or succeeded, until its replacement exists.

    ``deleted`` are the uids of the pods that this pass deletes.
    """
    if findings.stage is Stage.SUSPENDED:
        return ()
    recorded = {node.index: node for node in facts.job.status.nodes}
    entries = {node.index: _node(node, recorded.get(node.index), facts, findings, deleted) for node in facts.nodes}
    for index, node in recorded.items():
        back_off = findings.back_off.nodes.get(index)
        if index not in entries and index < findings.wanted.pods and (back_off or not node.spare):
            rank = node.rank if _may_be_member(node, facts) else None
            phase = Phase.SUCCEEDED if node.phase == Phase.SUCCEEDED else Phase.LOST
            entries[index] = node.model_copy(update={"phase": phase, "rank": rank, "back_off": back_off})
    return tuple(entries[index] for index in sorted(entries))


def _node(
    node: NodePod, recorded: api.NodeStatus | None, facts: Facts, findings: Findings, deleted: frozenset[str]
) -> api.NodeStatus:
    known = recorded if recorded is not None and recorded.uid == node.uid else None
    rank = findings.members.ranks.get(node.address) if node.address is not None else None
    if rank is None and known is not None and (node.phase is Phase.SUCCEEDED or _may_be_member(known, facts)):
        rank = known.rank  # between rounds, and after it has succeeded, a node keeps its rank
    return api.NodeStatus(
        index=node.index,
        pod=node.name,
        uid=node.uid,
        machine=node.machine,
        phase=_phase(node, known, facts, findings, deleted),
        address=node.address,
        rank=rank,
        spare=_is_spare(facts, findings, rank, known=known is not None and bool(known.spare)) or None,
        back_off=findings.back_off.nodes.get(node.index),
        start_counted=_start_counted(findings, known, rank) or None,
    )


def _start_counted(findings: Findings, known: api.NodeStatus | None, rank: int | None) -> bool:
    """Whether a failure of the code is counted, now or before, since the pod exists and without it having trained."""
    counted = findings.counts.failed or (known is not None and bool(known.start_counted))
    return counted and rank is None


def _phase(
    node: NodePod, known: api.NodeStatus | None, facts: Facts, findings: Findings, deleted: frozenset[str]
) -> Phase:
    if node.index in findings.leftovers.given_up:
        return Phase.LOST
    if node.uid in findings.losses.undecided:
        return Phase.RUNNING  # the status that counts the failure records it
    return Phase.TERMINATING if _going(node, known, facts, deleted) else node.phase


def _going(node: NodePod, known: api.NodeStatus | None, facts: Facts, deleted: frozenset[str]) -> bool:
    """Whether the pod is to be deleted: decided now, or before while the host that was the reason does not answer."""
    if not node.live and node.phase is not Phase.SUCCEEDED:
        return False
    before = known is not None and known.phase == Phase.TERMINATING
    return node.uid in deleted or (before and (facts.rendezvous is None or facts.job.spec.static))


def _is_spare(facts: Facts, findings: Findings, rank: int | None, *, known: bool) -> bool:
    """Whether a node is a spare now, or was one when a round was last complete."""
    if not facts.job.spec.elasticity.spares or rank is not None:
        return False
    complete = facts.rendezvous is not None and facts.rendezvous.complete
    return findings.members.full if complete else known


def _may_be_member(node: api.NodeStatus, facts: Facts) -> bool:
    """Whether no complete round without the node is known."""
    rendezvous = facts.rendezvous
    if rendezvous is None or not rendezvous.complete:
        return True
    return any(member.address == node.address for member in rendezvous.members)
