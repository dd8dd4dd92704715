"""The job runs: nodes that are missing are created; nodes that are surplus, failed, lost or stuck are deleted."""

import dataclasses

from torchrun_operator.api.names import node_name
from torchrun_operator.core.facts.model import Facts, NodePod, Phase
from torchrun_operator.core.findings.causes import describe
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.findings.stuck import StuckReason
from torchrun_operator.core.policies.host_lost import ORPHAN_GRACE_SECONDS
from torchrun_operator.core.policies.plan import Deletion, Plan, deletion
from torchrun_operator.core.policies.upkeep import going_on

_STUCK_GRACE_SECONDS = 1
"""An agent that hangs was told a minute ago. More than 0, so that its kubelet makes sure that it has ended."""


def replace(facts: Facts, findings: Findings) -> Plan:
    """Bring the job's nodes to the wanted ones."""
    deletions = [found for node in facts.nodes if (found := _deletion(node, findings)) is not None]
    create = () if _waits_for_rendezvous(facts, findings) else _missing(facts, findings)
    return going_on(
        facts, findings, create_nodes=create, deletions=deletions, later=(*findings.size.later, *findings.stuck.later)
    )


def _deletion(node: NodePod, findings: Findings) -> Deletion | None:
    if node.uid in findings.members.surplus:
        return dataclasses.replace(deletion(node, _surplus(findings)), surplus=True)
    if node.phase is Phase.LOST:
        return deletion(node, node.trouble)
    if why := findings.stuck.why.get(node.uid):
        grace = _STUCK_GRACE_SECONDS if why is StuckReason.MISSING else ORPHAN_GRACE_SECONDS
        return Deletion(node.name, node.uid, why.value, grace)
    if node.phase is Phase.FAILED and node.index not in findings.size.held:
        return deletion(node, describe(node.exit))
    return None


def _missing(facts: Facts, findings: Findings) -> tuple[int, ...]:
    """Return the indices without a pod. A pod of that name that an earlier job left behind is waited for."""
    name, there = facts.job.metadata.name, {node.index for node in facts.nodes}
    return tuple(
        index
        for index in range(findings.wanted.pods)
        if index not in there and node_name(name, index) not in facts.foreign
    )


def _waits_for_rendezvous(facts: Facts, findings: Findings) -> bool:
    """Tell whether new agents would join the old rendezvous and end with it."""
    pod = facts.rendezvous_pod
    return findings.completion.rendezvous_spent or (pod is not None and pod.phase is Phase.TERMINATING)


def _surplus(findings: Findings) -> str:
    nodes, spares = findings.wanted.nodes, findings.wanted.spares
    return f"spec.replicas asks for {nodes} nodes" + (f", beside {spares} spares" if spares else "")
