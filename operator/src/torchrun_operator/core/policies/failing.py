"""The job fails now: the rendezvous is closed, so that the agents end."""

from torchrun_operator.core.facts.model import Facts
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.policies.plan import Plan
from torchrun_operator.core.policies.upkeep import seconds_until, stale_host, target


def failing(facts: Facts, findings: Findings) -> Plan | None:
    """Close the rendezvous of a job that fails now."""
    if findings.failing is None:
        return None
    return Plan(
        deletions=stale_host(facts, findings),
        target=None if facts.job.spec.static else target(facts, findings, close=True),
        look_again_seconds=seconds_until([findings.workers.undecided_until], facts.now),
    )
