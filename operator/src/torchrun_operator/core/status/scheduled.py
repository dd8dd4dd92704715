"""The condition Scheduled: whether every wanted node has a Kubernetes node."""

from torchrun_operator.api.conditions import ConditionType, Reason
from torchrun_operator.core.facts.model import Facts
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.findings.waits import Kind
from torchrun_operator.core.phrases import counted, share
from torchrun_operator.core.status.verdict import Verdict
from torchrun_operator.core.status.waiting import about_host, about_nodes


def scheduled(facts: Facts, findings: Findings) -> Verdict:
    """Return how many node pods are scheduled, and why the others and the rendezvous pod are not."""
    wanted = findings.wanted
    nodes = [node for node in facts.nodes if node.index < wanted.pods]
    placed = sum(1 for node in nodes if node.scheduled)
    host = findings.waits.host
    if host is not None and host.kind is Kind.UNPLACED:
        return Verdict(ConditionType.SCHEDULED, False, Reason.WAITING_FOR_CAPACITY, about_host(host))
    if wanted.nodes and placed >= wanted.nodes:
        message = f"all {wanted.nodes} node pods are scheduled" if wanted.nodes > 1 else "the node pod is scheduled"
        if wanted.spares:
            message += f", and {placed - wanted.nodes} of {counted(wanted.spares, 'spare')}"
        return Verdict(ConditionType.SCHEDULED, True, Reason.ALL_SCHEDULED, message)
    message = share(placed, wanted.nodes, "node pod", "is scheduled", "are scheduled")
    unplaced = about_nodes(findings.waits, wanted.pods, [Kind.UNPLACED], facts.job.metadata.namespace)
    if not unplaced:
        return Verdict(ConditionType.SCHEDULED, False, Reason.WAITING_FOR_PODS, message)
    return Verdict(ConditionType.SCHEDULED, False, Reason.WAITING_FOR_CAPACITY, "; ".join([message, *unplaced]))
