"""Some members have succeeded and the others are about to: no more nodes are replaced."""

from torchrun_operator.core.facts.model import Facts
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.policies.plan import Plan, deletion
from torchrun_operator.core.policies.upkeep import going_on

_WHY = "the job is about to end; the operator replaces no more nodes"


def finishing(facts: Facts, findings: Findings) -> Plan | None:
    """Delete the spares: their agents would fail once the finished agents close the rendezvous."""
    if not findings.completion.finishing:
        return None
    spares = tuple(deletion(node, _WHY) for node in findings.members.idle if node.live)
    return going_on(facts, findings, deletions=spares)
