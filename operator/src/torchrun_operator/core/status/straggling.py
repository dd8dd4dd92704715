"""The condition Straggling: whether one worker keeps the others waiting. Absent until the job has a straggler."""

from torchrun_operator.api.conditions import ConditionType, Reason, find_condition
from torchrun_operator.api.v1alpha1 import Straggler
from torchrun_operator.core.facts.model import Facts
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.status.verdict import Verdict


def straggling(facts: Facts, findings: Findings) -> list[Verdict]:
    """Name the straggler. The message keeps its first figures while the straggler is the same worker."""
    slow, before = findings.straggler, facts.job.status.straggler
    old = find_condition(facts.job.status.conditions, ConditionType.STRAGGLING)
    if slow is None:
        message = "no worker keeps the others waiting for long"
        return [Verdict(ConditionType.STRAGGLING, False, Reason.EVEN_PACE, message)] if old is not None else []
    if old is not None and old.reason == Reason.SLOW_WORKER and before is not None and _same(slow, before):
        return [Verdict(ConditionType.STRAGGLING, True, Reason.SLOW_WORKER, old.message)]
    pod = f"pod {slow.pod}" if slow.pod else "an unknown pod"
    where = f"rank {slow.rank} in {pod}" + (f" on {slow.machine}" if slow.machine else "")
    message = f"{where} keeps the others waiting for {slow.lag_seconds:.2g} s of each step of {slow.step_seconds:.2g} s"
    return [Verdict(ConditionType.STRAGGLING, True, Reason.SLOW_WORKER, message)]


def _same(one: Straggler, other: Straggler) -> bool:
    return (one.rank, one.pod, one.machine) == (other.rank, other.pod, other.machine)
