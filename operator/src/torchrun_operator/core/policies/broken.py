"""A member was lost after others had finished: no node can train with its replacement, so all nodes start again."""

from torchrun_operator.core.facts.model import GONE, Facts, Phase
from torchrun_operator.core.findings.causes import describe
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.phrases import named
from torchrun_operator.core.policies.plan import Plan, deletion, host_deletion
from torchrun_operator.core.policies.upkeep import going_on, present


def broken(facts: Facts, findings: Findings) -> Plan | None:
    """Delete all pods, so that the next passes start the job again: once a failure of workers is counted.

    The rendezvous pod comes first: while it is gone, a restarted operator knows that all nodes start again.
    """
    if not findings.completion.broken or findings.workers.undecided_until is not None:
        return None
    why = _why(facts)
    host = host_deletion(facts.rendezvous_pod, why)
    nodes = (deletion(node, why) for node in present(facts))
    return going_on(facts, findings, deletions=(*host, *nodes), restart_all=why)


def _why(facts: Facts) -> str:
    """Return what happened to which node, and whose logs end with their pods."""
    pods = {node.uid: node for node in facts.nodes}
    lost = []
    for node in facts.job.status.nodes:
        pod = pods.get(node.uid)
        if node.rank is not None and (pod is None or pod.phase in GONE):
            failed = pod is not None and pod.phase is Phase.FAILED
            lost.append(f"pod {node.pod} {describe(pod.exit) if pod is not None and failed else 'was lost'}")
    unfinished = facts.rendezvous.unfinished if facts.rendezvous is not None else ()
    lost += [f"workers of pod {node.name} failed" for node in facts.nodes if node.address in unfinished]
    done = [node.name for node in facts.nodes if node.phase is Phase.SUCCEEDED]
    then = f" after {named(done)} had succeeded" if done else " after others had finished"
    logs = f"; the logs of {named(done)} are deleted together with the pods" if done else ""
    return f"{lost[0] if lost else 'a node was lost'}{then}{logs}"
