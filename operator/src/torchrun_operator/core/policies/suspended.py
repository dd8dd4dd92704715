"""spec.suspend is true, or was while the spec changed: all pods of the job are deleted."""

from torchrun_operator.core.facts.model import Facts, Stage
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.policies.plan import Plan, deletion, host_deletion
from torchrun_operator.core.policies.upkeep import present

_WHY = "spec.suspend is true"
_OUTDATED = "the spec of the job has changed while it was suspended"


def suspended(facts: Facts, findings: Findings) -> Plan | None:
    """Delete all pods of a suspended job. The pods of an earlier spec end before those of the new one start."""
    if findings.stage is not Stage.SUSPENDED:
        return None
    why = _WHY if facts.job.spec.suspend else _OUTDATED
    nodes = tuple(deletion(node, why) for node in present(facts))
    return Plan(deletions=(*nodes, *host_deletion(facts.rendezvous_pod, why)))
