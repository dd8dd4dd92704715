"""The newest failure, and the rule of spec.failurePolicy that decides what it leads to."""

from dataclasses import dataclass

from torchrun_operator.api.v1alpha1 import Failure, FailureAction, FailureRule, Operator
from torchrun_operator.core.facts.model import Cause, Facts
from torchrun_operator.core.findings.failures import newest
from torchrun_operator.core.findings.hangs import Hang, Hangs
from torchrun_operator.core.findings.losses import Losses
from torchrun_operator.core.findings.workers import WorkerFailures


@dataclass(frozen=True)
class Verdict:
    """The failure of a pass, and what it leads to."""

    failure: Failure | None = None
    """As the status records it, if the pass counts it."""
    hang: Hang | None = None
    """The hang that it is."""
    action: FailureAction = FailureAction.COUNT


def verdict(facts: Facts, lost: Losses, workers: WorkerFailures, hangs: Hangs) -> Verdict:
    """Return the newest failure, and what the first rule that matches it says. Rules are about failures of the code.

    A lost node explains that the round makes no progress, so that such a hang does not count.
    """
    hang = hangs.new if not lost.nodes else None
    failure = newest(facts, lost.nodes, workers, hang)
    if failure is None or failure.cause != Cause.CODE:
        return Verdict(failure, hang)
    rules = facts.job.spec.failure_policy.rules
    number = next((number for number, rule in enumerate(rules) if _matches(rule, failure)), None)
    if number is None:
        return Verdict(failure, hang)
    action = rules[number].action
    cause = Cause.INFRASTRUCTURE if action is FailureAction.IGNORE else failure.cause
    return Verdict(failure.model_copy(update={"rule": number, "action": action, "cause": cause}), hang, action)


def _matches(rule: FailureRule, failure: Failure) -> bool:
    said = f"{failure.message}\n{failure.traceback or ''}"
    return (
        (rule.exit_codes is None or _code_matches(rule, failure))
        and (not rule.signals or failure.signal in rule.signals)
        and (not rule.reasons or failure.reason in rule.reasons)
        and (not rule.messages or any(text in said for text in rule.messages))
    )


def _code_matches(rule: FailureRule, failure: Failure) -> bool:
    codes, code = rule.exit_codes, failure.exit_code
    if codes is None or code is None or failure.signal is not None:
        return False
    return (code in codes.values) is (codes.operator is Operator.IN)
