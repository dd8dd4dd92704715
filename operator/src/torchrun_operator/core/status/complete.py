"""The condition Complete: every member has succeeded."""

from torchrun_operator.api.conditions import ConditionType, Reason
from torchrun_operator.core.facts.model import Facts, Phase
from torchrun_operator.core.findings.completion import gone_well
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.phrases import counted
from torchrun_operator.core.status.verdict import Verdict


def complete(facts: Facts, findings: Findings) -> list[Verdict]:
    """Return the condition once the job is complete."""
    if not findings.completion.complete:
        return []
    if facts.job.spec.ends_with_lead:
        message = f"the lead, {facts.pod_name(0)}, succeeded"
        return [Verdict(ConditionType.COMPLETE, True, Reason.FINISHED, message)]
    count = sum(1 for node in facts.nodes if node.phase is Phase.SUCCEEDED) + len(gone_well(facts))
    return [Verdict(ConditionType.COMPLETE, True, Reason.FINISHED, f"{counted(count, 'node')} succeeded")]
