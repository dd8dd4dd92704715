"""A member was lost after others had finished: no node can train with its replacement, so all nodes start again."""

from torchrun_operator.core.facts.model import Facts
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.policies.plan import Plan, deletion, host_deletion
from torchrun_operator.core.policies.upkeep import going_on, present

_WHY = "a node was lost after others had finished: all nodes start again from the last snapshot"


def broken(facts: Facts, findings: Findings) -> Plan | None:
    """Delete all pods, so that the next passes start the job again.

    The rendezvous pod comes first: while it is gone, a restarted operator knows that all nodes start again.
    """
    if not findings.completion.broken:
        return None
    host = host_deletion(facts.rendezvous_pod, _WHY)
    return going_on(facts, findings, deletions=(*host, *(deletion(node, _WHY) for node in present(facts))))
