"""The rendezvous host is lost with its Kubernetes node: agents that are cut off from it hang for a minute.

Agents that outlive their host go on instead.
"""

from torchrun_operator.core.facts.model import Facts, Phase
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.findings.losses import host_trouble
from torchrun_operator.core.policies.plan import Deletion, Plan
from torchrun_operator.core.policies.upkeep import going_on

ORPHAN_GRACE_SECONDS = 5
"""Time for workers to save a snapshot. Their agent hangs while it tries to write to the store that it leaves."""


def host_lost(facts: Facts, findings: Findings) -> Plan | None:
    """Delete the running nodes of a job whose rendezvous host is lost."""
    trouble = host_trouble(facts)
    if not trouble:
        return None
    why = f"the rendezvous host is lost: {trouble}"
    running = [node for node in facts.nodes if node.phase is Phase.RUNNING]
    deletions = [Deletion(node.name, node.uid, why, ORPHAN_GRACE_SECONDS) for node in running]
    return going_on(facts, findings, deletions=deletions, restart_all=why)
