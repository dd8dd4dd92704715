"""Every member has succeeded: the job is complete, and no more nodes start."""

from torchrun_operator.core.facts.model import Facts
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.policies.plan import Plan
from torchrun_operator.core.policies.upkeep import stale_host


def succeeded(facts: Facts, findings: Findings) -> Plan | None:
    """Keep the pods of a job that completes now."""
    return Plan(deletions=stale_host(facts, findings)) if findings.completion.complete else None
