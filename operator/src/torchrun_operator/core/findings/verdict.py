"""The newest failure, and the rule of spec.failurePolicy that decides what it leads to."""

from dataclasses import dataclass
from datetime import timedelta

from torchrun_operator.api.v1alpha1 import Failure, FailureAction, FailureRule, Operator
from torchrun_operator.core.facts.model import LIVE, Cause, Facts, NodePod
from torchrun_operator.core.facts.words import Words
from torchrun_operator.core.findings.failures import newest
from torchrun_operator.core.findings.hangs import Hang, Hangs
from torchrun_operator.core.findings.losses import Loss, Losses
from torchrun_operator.core.findings.workers import WorkerFailures

_AGAIN = timedelta(minutes=10)
"""Workers that fail this soon after a failure that a rule ignored do so because of where they run."""
_IGNORED_AGAIN = "failed again in a way that spec.failurePolicy ignores"


@dataclass(frozen=True)
class Verdict:
    """The failure of a pass, and what it leads to."""

    failure: Failure | None = None
    """As the status records it, if the pass counts it."""
    hang: Hang | None = None
    """The hang that it is."""
    action: FailureAction = FailureAction.COUNT
    moved: Loss | None = None
    """The node that is replaced because its workers failed again and a rule ignores that."""


def verdict(facts: Facts, lost: Losses, workers: WorkerFailures, hangs: Hangs) -> Verdict:
    """Return the newest failure, and what the first rule that matches it says. Rules are about failures of the code.

    A lost node explains that the round makes no progress, so that such a hang does not count.
    """
    hang = hangs.new if not lost.nodes else None
    failure = newest(facts, lost.nodes, workers, hang)
    if failure is None or failure.cause != Cause.CODE:
        return Verdict(failure, hang)
    rules, text = facts.job.spec.failure_policy.rules, _text(facts, failure)
    number = next((number for number, rule in enumerate(rules) if _matches(rule, failure, text)), None)
    if number is None:
        return Verdict(failure, hang)
    action = rules[number].action
    ignored = action is FailureAction.IGNORE
    cause = Cause.INFRASTRUCTURE if ignored else failure.cause
    judged = failure.model_copy(update={"rule": number, "action": action, "cause": cause})
    return Verdict(judged, hang, action, _moved(facts, failure) if ignored and workers.count else None)


def _moved(facts: Facts, failure: Failure) -> Loss | None:
    """Return the node to replace. An agent would start its workers again without end, on the same hardware."""
    last = facts.job.status.last_failure
    node = next((node for node in facts.nodes if node.name == failure.pod and node.phase in LIVE), None)
    if node is None or last is None or last.action != FailureAction.IGNORE or failure.time - last.time > _AGAIN:
        return None
    return Loss(node.index, node.name, Cause.INFRASTRUCTURE, _IGNORED_AGAIN, rank=_rank(facts, node))


def _rank(facts: Facts, node: NodePod) -> int | None:
    return next((known.rank for known in facts.job.status.nodes if known.uid == node.uid), None)


def _text(facts: Facts, failure: Failure) -> str:
    """Return all that is known of what the failure said. The status has only its beginning and its end."""
    words = facts.said.get(failure.pod or "", Words())
    return f"{failure.message}\n{failure.traceback or ''}\n{words.text}"


def _matches(rule: FailureRule, failure: Failure, said: str) -> bool:
    return (
        (rule.exit_codes is None or _code_matches(rule, failure))
        and (not rule.signals or (failure.container is None and failure.signal in rule.signals))
        and (not rule.reasons or failure.reason in rule.reasons)
        and (not rule.messages or any(text in said for text in rule.messages))
    )


def _code_matches(rule: FailureRule, failure: Failure) -> bool:
    codes, code = rule.exit_codes, failure.exit_code
    if codes is None or code is None or code < 0 or failure.container is not None:
        return False
    return (code in codes.values) is (codes.operator is Operator.IN)
