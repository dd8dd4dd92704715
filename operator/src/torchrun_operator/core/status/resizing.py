"""The condition Resizing: True from a change of a job that has trained until the round that settles it."""

from torchrun_operator.api.conditions import ConditionType, Reason
from torchrun_operator.api.v1alpha1 import Membership
from torchrun_operator.core.facts.model import GONE, Facts, Phase, Stage
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.status.verdict import Verdict

_MOST_LOST = 5
_MOST_ABSENT = 3
_NO_CHANGE = "no change is under way"


def resizing(facts: Facts, findings: Findings, membership: Membership) -> Verdict:
    """Return whether a change is under way, and its reason. It is settled once all nodes that can train do."""
    trained = any(node.rank is not None for node in facts.job.status.nodes)
    if not trained or findings.stage is Stage.SUSPENDED or findings.completion.complete or findings.counts.exhausted:
        return _settled()
    lost = _lost(facts, findings)
    have, wanted = membership.nodes, membership.desired_nodes
    leaving = bool(findings.members.surplus)
    finishing = not lost and any(node.phase is Phase.SUCCEEDED for node in facts.nodes)
    if (have == wanted and not leaving) or finishing:
        return _settled()
    if have and have >= findings.size.round and not leaving and not findings.size.held:
        words = "; ".join(_absent(facts, findings)[:_MOST_ABSENT])
        message = f"{have} of {wanted} nodes train; the others join later: {words}"
        return Verdict(ConditionType.RESIZING, False, Reason.SHORT_OF_NODES, message)
    if lost:
        message = f"{have} of {wanted} nodes train; lost: {', '.join(sorted(lost)[:_MOST_LOST])}"
        return Verdict(ConditionType.RESIZING, True, Reason.NODE_LOST, message)
    if facts.rendezvous is not None and not facts.rendezvous.complete and len(facts.nodes) >= wanted:
        return _restarting(facts, findings, wanted)
    message = f"{have} nodes train; the job wants {wanted}"
    return Verdict(ConditionType.RESIZING, True, Reason.REPLICAS_CHANGED, message)


def _settled() -> Verdict:
    return Verdict(ConditionType.RESIZING, False, Reason.SETTLED, _NO_CHANGE)


def _lost(facts: Facts, findings: Findings) -> list[str]:
    """Return the names of the lost pods without a replacement."""
    present = {node.index for node in facts.nodes if node.phase not in GONE}
    recorded = [
        node.pod
        for node in facts.job.status.nodes
        if node.phase in GONE and node.index not in present and not node.spare
    ]
    return [*recorded, *(loss.pod for loss in findings.losses.nodes if loss.pod not in recorded)]


def _absent(facts: Facts, findings: Findings) -> list[str]:
    """Return a phrase for each absent node, with the reason."""
    return [
        f"{node.name}: {findings.size.absent[node.index]}"
        for node in facts.nodes
        if node.index < findings.wanted.nodes and node.index in findings.size.absent
    ]


def _restarting(facts: Facts, findings: Findings, wanted: int) -> Verdict:
    assert facts.rendezvous is not None
    joined, hung = len(facts.rendezvous.members), findings.counts.hung_round
    message = f"workers restart; {joined} of {wanted} nodes have joined the next round"
    if hung is not None and facts.rendezvous.round <= hung + 1:
        message = f"round {hung} made no progress; {message}"
        return Verdict(ConditionType.RESIZING, True, Reason.PROGRESS_DEADLINE_EXCEEDED, message)
    return Verdict(ConditionType.RESIZING, True, Reason.RESTARTING_WORKERS, message)
