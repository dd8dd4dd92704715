"""A static job: its nodes start together, the lead first, and end together when one of them is lost."""

from collections.abc import Iterator

from torchrun_operator.core.facts.model import LIVE, Facts, NodePod, Phase
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.policies.plan import Deletion, Plan, deletion
from torchrun_operator.core.policies.replace import free_names, missing
from torchrun_operator.core.policies.upkeep import going_on, present

_GRACE_SECONDS = 1
"""The nodes of a round that has ended cannot train on. Python as the first process of a container ignores SIGTERM, so
a longer time delays the restart.
"""
_EARLIER = "its round has ended"


def together(facts: Facts, findings: Findings) -> Plan | None:
    """Delete the pods of a round that has ended, and create those of the next one."""
    if not facts.job.spec.static:
        return None
    round_ = findings.together
    create = _due(facts, findings)
    trained = any(node.rank is not None for node in facts.job.status.nodes)
    return going_on(
        facts,
        findings,
        create_nodes=create,
        names=free_names(facts, create),
        lead=round_.lead if create and create[0] > 0 else None,
        deletions=_deletions(facts, findings),
        restart_all=round_.ends if trained else "",
        later=(*findings.back_off.later, *findings.leftovers.later),
    )


def _due(facts: Facts, findings: Findings) -> tuple[int, ...]:
    """Return the indices of the nodes to create: first the lead, then the others with its address."""
    if findings.together.ends or findings.losses.undecided:
        return ()
    indices = missing(facts, findings)
    if 0 in indices and findings.together.lead is None:
        return (0,)
    return tuple(index for index in indices if index > 0) if findings.together.lead is not None else ()


def _deletions(facts: Facts, findings: Findings) -> Iterator[Deletion]:
    round_, why = findings.together, findings.together.ends
    for node in present(facts):
        if why or node.uid in round_.stale or node in facts.former:
            waits = node.phase is Phase.FAILED and bool(findings.back_off.held)  # its log stays meanwhile
            if not waits:
                yield _ending(node, why or _EARLIER, gently=round_.gently)
    for node in (*facts.nodes, *facts.former):
        # Its name is free at once, and not only when the kubelet has cleaned up.
        if node.phase is Phase.TERMINATING and node.over and not node.finalizers:
            yield Deletion(node.name, node.uid, why or _EARLIER, 0)


def _ending(node: NodePod, why: str, *, gently: bool) -> Deletion:
    usual = deletion(node, why)
    return usual if gently or node.phase not in LIVE else Deletion(node.name, node.uid, why, _GRACE_SECONDS)
