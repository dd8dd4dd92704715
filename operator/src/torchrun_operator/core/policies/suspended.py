"""spec.suspend is true: all pods of the job are deleted."""

from torchrun_operator.core.facts.model import Facts, Stage
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.policies.plan import Plan, deletion, host_deletion
from torchrun_operator.core.policies.upkeep import present

_WHY = "spec.suspend is true"


def suspended(facts: Facts, findings: Findings) -> Plan | None:
    """Delete all pods of a suspended job."""
    if findings.stage is not Stage.SUSPENDED:
        return None
    nodes = tuple(deletion(node, _WHY) for node in present(facts))
    return Plan(deletions=(*nodes, *host_deletion(facts.rendezvous_pod, _WHY)))
