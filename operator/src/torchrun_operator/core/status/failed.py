"""The condition Failed: the code failed more often than spec.maxRestarts allows."""

from torchrun_operator.api.conditions import ConditionType, Reason
from torchrun_operator.api.names import TRAINER_CONTAINER, node_name
from torchrun_operator.core.facts.model import Cause, Facts
from torchrun_operator.core.findings.failures import describe_failure
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.findings.workers import FailureReason
from torchrun_operator.core.status.verdict import Verdict


def failed(facts: Facts, findings: Findings) -> list[Verdict]:
    """Return the condition once the job has failed."""
    if not findings.counts.exhausted:
        return []
    reason = Reason.PROGRESS_DEADLINE_EXCEEDED if findings.counts.hang else Reason.MAX_RESTARTS_EXCEEDED
    return [Verdict(ConditionType.FAILED, True, reason, _message(facts, findings))]


def _message(facts: Facts, findings: Findings) -> str:
    job, times = facts.job, findings.counts.restarts.code
    often = "1 time" if times == 1 else f"{times} times"
    count = f"the code has failed {often} and spec.maxRestarts is {job.spec.max_restarts}"
    failure = findings.failure or job.status.last_failure
    if failure is None or failure.cause != Cause.CODE:
        return count
    if failure.reason == FailureReason.HUNG:
        return f"{describe_failure(failure)}; {count}"
    pod, container = failure.pod or node_name(job.metadata.name, 0), failure.container or TRAINER_CONTAINER
    hint = f"see kubectl -n {job.metadata.namespace} logs {pod} -c {container}"
    return f"{describe_failure(failure)}; {count}; {hint}"
