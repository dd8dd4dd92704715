"""The job runs: missing nodes are created, and surplus, failed, lost or stuck nodes are deleted."""

import dataclasses
import itertools
from collections.abc import Iterable

from torchrun_operator.api.names import node_name, other_node_name, rendezvous_name
from torchrun_operator.core.facts.model import Facts, NodePod, Phase
from torchrun_operator.core.findings.causes import describe
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.findings.stuck import StuckReason
from torchrun_operator.core.phrases import counted
from torchrun_operator.core.policies.host_lost import ORPHAN_GRACE_SECONDS
from torchrun_operator.core.policies.plan import Deletion, Plan, deletion
from torchrun_operator.core.policies.upkeep import going_on

_STUCK_GRACE_SECONDS = 1
"""A hanging agent got its signal a minute ago. More than 0, so that the kubelet makes sure that it ends."""


def replace(facts: Facts, findings: Findings) -> Plan:
    """Create and delete nodes until the job has the wanted ones."""
    deletions = [found for node in facts.nodes if (found := _deletion(node, findings)) is not None]
    deletions += [_of_former(node) for node in facts.former if node.phase is not Phase.TERMINATING]
    create = () if _waits_for_rendezvous(facts, findings) else missing(facts, findings)
    later = (*findings.size.later, *findings.stuck.later, *findings.back_off.later, *findings.leftovers.later)
    names = free_names(facts, create)
    return going_on(facts, findings, create_nodes=create, names=names, deletions=deletions, later=later)


def _deletion(node: NodePod, findings: Findings) -> Deletion | None:
    if node.uid in findings.members.surplus:
        return dataclasses.replace(deletion(node, _surplus(findings)), surplus=True)
    if node.phase is Phase.LOST:
        return deletion(node, node.trouble)
    why = findings.stuck.why.get(node.uid)
    if why is not None:
        grace = _STUCK_GRACE_SECONDS if why is StuckReason.MISSING else ORPHAN_GRACE_SECONDS
        return Deletion(node.name, node.uid, why.value, grace)
    if findings.moved is not None and node.name == findings.moved.pod:
        return deletion(node, findings.moved.what)
    if node.phase is Phase.FAILED and node.index not in findings.back_off.held:
        return deletion(node, describe(node.exit))
    return None


def missing(facts: Facts, findings: Findings, freed: frozenset[str] = frozenset()) -> tuple[int, ...]:
    """Return the indices without a pod that do not wait. If a pod of an earlier job has the name, its index waits.

    ``freed``: the uids of pods that this pass removes before it creates others.
    """
    name, given_up = facts.job.metadata.name, findings.leftovers.given_up
    stay = (node for node in facts.nodes if node.index not in given_up and node.uid not in freed)
    there = {*findings.back_off.held, *(node.index for node in stay)}
    return tuple(
        index
        for index in range(findings.wanted.pods)
        if index not in there and node_name(name, index) not in facts.foreign
    )


def _of_former(node: NodePod) -> Deletion:
    return deletion(node, node.trouble or "another pod has its index")


def free_names(facts: Facts, indices: Iterable[int], freed: frozenset[str] = frozenset()) -> dict[int, str]:
    """Return a free name for each of these nodes whose usual name is taken by a pod of this job.

    ``freed``: the uids of pods that this pass removes before it creates others.
    """
    stay = (node.name for node in (*facts.nodes, *facts.former) if node.uid not in freed)
    job, taken = facts.job.metadata.name, {*stay, *facts.foreign}
    others = {index: (other_node_name(job, index, number) for number in itertools.count(2)) for index in indices}
    return {
        index: next(name for name in names if name not in taken)
        for index, names in others.items()
        if node_name(job, index) in taken
    }


def _waits_for_rendezvous(facts: Facts, findings: Findings) -> bool:
    """Whether new agents would join the old rendezvous and end with it, or find none because its name is taken."""
    pod = facts.rendezvous_pod
    if pod is None and rendezvous_name(facts.job.metadata.name) in facts.foreign:
        return True
    return findings.completion.rendezvous_spent or (pod is not None and pod.phase is Phase.TERMINATING)


def _surplus(findings: Findings) -> str:
    nodes, spares = findings.wanted.nodes, findings.wanted.spares
    return f"the job wants {counted(nodes, 'node')}" + (f" and {counted(spares, 'spare')}" if spares else "")
