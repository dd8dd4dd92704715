"""The condition Scheduled: whether every wanted node has a Kubernetes node."""

from torchrun_operator.api.conditions import ConditionType, Reason
from torchrun_operator.core.facts.model import Facts
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.status.verdict import Verdict


def scheduled(facts: Facts, findings: Findings) -> Verdict:
    """Return how many node pods are scheduled, and why the first other one is not."""
    wanted = findings.wanted
    nodes = [node for node in facts.nodes if node.index < wanted.pods]
    placed = sum(1 for node in nodes if node.scheduled)
    if wanted.nodes and placed >= wanted.nodes:
        message = f"all {wanted.nodes} node pods are scheduled"
        if wanted.spares:
            message += f", and {placed - wanted.nodes} of {wanted.spares} spares"
        return Verdict(ConditionType.SCHEDULED, True, Reason.ALL_SCHEDULED, message)
    message = f"{placed} of {wanted.nodes} node pods are scheduled"
    unplaced = next((node for node in nodes if not node.scheduled and node.wait.message), None)
    if unplaced is None:
        return Verdict(ConditionType.SCHEDULED, False, Reason.WAITING_FOR_PODS, message)
    message += f"; {unplaced.name}: {unplaced.wait.message}"
    return Verdict(ConditionType.SCHEDULED, False, Reason.WAITING_FOR_CAPACITY, message)
