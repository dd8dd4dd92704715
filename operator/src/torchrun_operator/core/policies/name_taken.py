"""A name that the job needs belongs to another owner: a job that never trained has no pods until the name is free."""

from torchrun_operator.core.facts.model import Facts
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.policies.plan import Plan, deletion, host_deletion
from torchrun_operator.core.policies.upkeep import going_on, present

_WHY = "a name that the job needs belongs to another owner"


def name_taken(facts: Facts, findings: Findings) -> Plan | None:
    """Delete the pods of a job whose name is taken, and try the name again."""
    if not findings.name_taken:
        return None
    nodes = [deletion(node, _WHY) for node in present(facts)]
    host = host_deletion(facts.rendezvous_pod, _WHY)
    return going_on(facts, findings, deletions=(*nodes, *host))
