"""The condition Failed: too many failures of the code, or a grave one, no time left, or no round at all."""

from torchrun_operator.api.conditions import ConditionType, Reason
from torchrun_operator.api.names import TRAINER_CONTAINER, node_name
from torchrun_operator.api.v1alpha1 import Failure
from torchrun_operator.core.facts.model import Cause, Facts, Phase
from torchrun_operator.core.findings.failures import describe_failure
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.findings.workers import FailureReason
from torchrun_operator.core.phrases import counted, named
from torchrun_operator.core.status.verdict import Verdict


def failed(facts: Facts, findings: Findings) -> list[Verdict]:
    """Return the condition once the job has failed."""
    reason = findings.failing
    if reason is None:
        return []
    if reason is Reason.NEVER_TRAINED:
        message = _never_trained(facts)
    elif reason is Reason.DEADLINE_EXCEEDED:
        seconds = facts.job.spec.active_deadline_seconds
        message = f"the job was active for longer than spec.activeDeadlineSeconds, which is {seconds}"
    elif reason is Reason.FAILURE_POLICY and findings.failure is not None:
        message = f"{describe_failure(findings.failure)}; see {_logs_of(facts, findings.failure)}"
    else:
        message = _too_often(facts, findings)
    return [Verdict(ConditionType.FAILED, True, reason, message)]


def _never_trained(facts: Facts) -> str:
    """Return that nodes ended without a round, and what to write."""
    ended = [node for node in facts.nodes if node.phase is Phase.SUCCEEDED]
    command, done = facts.job.spec.command_of(ended[0].index), [node.name for node in ended]
    message = f"{named(done)} ended with exit code 0, but no round was ever complete, so nothing trained together: "
    if any("torchrun" in word or "torch.distributed" in word for word in command):
        return message + (
            "torchrun in the command of the trainer container ended before it joined the rendezvous, or joined another "
            f"one; remove its options for nodes and rendezvous, and see {_logs(facts, done[0], TRAINER_CONTAINER)}"
        )
    script = [word for word in command if word.endswith(".py")][:1]
    instead = ", ".join(["torchrun", *((script and command[command.index(script[0]) :]) or ["SCRIPT", "ARGUMENTS"])])
    return message + f"the command of the trainer container does not start torchrun; write [{instead}]"


def _too_often(facts: Facts, findings: Findings) -> str:
    job, times = facts.job, findings.counts.restarts.code
    count = f"the code has failed {counted(times, 'time')} and spec.maxRestarts is {job.spec.max_restarts}"
    failure = findings.failure or job.status.last_failure
    if failure is None or failure.cause != Cause.CODE:
        return count
    if failure.reason == FailureReason.HUNG:
        return f"{describe_failure(failure)}; {count}"
    return f"{describe_failure(failure)}; {count}; see {_logs_of(facts, failure)}"


def _logs_of(facts: Facts, failure: Failure) -> str:
    pod = failure.pod or node_name(facts.job.metadata.name, 0)
    return _logs(facts, pod, failure.container or TRAINER_CONTAINER)


def _logs(facts: Facts, pod: str, container: str) -> str:
    return f"kubectl -n {facts.job.metadata.namespace} logs {pod} -c {container}"
