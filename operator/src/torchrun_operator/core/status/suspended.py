"""The condition Suspended: whether the pods of the job are deleted."""

from torchrun_operator.api.conditions import ConditionType, Reason
from torchrun_operator.core.facts.model import Facts, Stage
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.phrases import counted
from torchrun_operator.core.status.verdict import Verdict


def suspended(facts: Facts, findings: Findings) -> Verdict:
    """Return whether the job is suspended and all its pods are deleted."""
    if findings.stage is not Stage.SUSPENDED:
        return Verdict(ConditionType.SUSPENDED, False, Reason.NOT_SUSPENDED, "spec.suspend is not set")
    if facts.outdated and not facts.job.spec.suspend:
        message = "the spec has changed while the job was suspended; the pods of the earlier spec are being deleted"
        return Verdict(ConditionType.SUSPENDED, True, Reason.SUSPENDING, message)
    if facts.nodes:
        are = "is" if len(facts.nodes) == 1 else "are"
        message = "; ".join([f"{counted(len(facts.nodes), 'pod')} {are} being deleted", *findings.stopping.slow])
        return Verdict(ConditionType.SUSPENDED, True, Reason.SUSPENDING, message)
    message = "no pods while spec.suspend is true; set it to false to continue from the last snapshot"
    return Verdict(ConditionType.SUSPENDED, True, Reason.SUSPENDED, message)
