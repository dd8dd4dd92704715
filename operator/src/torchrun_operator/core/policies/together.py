"""A static job: its nodes start together, the lead first, and end together when one of them is lost."""

from collections.abc import Iterable, Iterator

from torchrun_operator.core.facts.model import LIVE, Facts, NodePod, Phase
from torchrun_operator.core.facts.together import lead_of
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
    round_, deletions = findings.together, [*_deletions(facts, findings)]
    freed = _freed(facts, deletions)
    create = _due(facts, findings, freed)
    trained = any(node.rank is not None for node in facts.job.status.nodes)
    return going_on(
        facts,
        findings,
        create_nodes=create,
        names=free_names(facts, create, freed),
        lead=round_.lead if create and create[0] > 0 else None,
        deletions=deletions,
        restart_all=round_.ends if trained else "",
        later=(*findings.back_off.later, *findings.leftovers.later),
    )


def _freed(facts: Facts, deletions: Iterable[Deletion]) -> frozenset[str]:
    """Return the uids of the pods that these deletions remove at once, so that other pods can have their names."""
    at_once = {deletion.uid for deletion in deletions if deletion.grace_seconds == 0}
    return frozenset(node.uid for node in (*facts.nodes, *facts.former) if node.uid in at_once and not node.finalizers)


def _due(facts: Facts, findings: Findings, freed: frozenset[str]) -> tuple[int, ...]:
    """Return the indices of the nodes to create: first the lead, then the others with its address.

    The next lead starts in the pass in which the last one has gone. A pass more delays the restart of all nodes.
    """
    if findings.losses.undecided:
        return ()
    round_, indices, last = findings.together, missing(facts, findings, freed), lead_of(facts)
    gone = last is None or last.uid in freed
    if 0 in indices and (gone or not (round_.ends or round_.lead)):
        return (0,)
    return tuple(index for index in indices if index > 0) if round_.lead is not None else ()


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
