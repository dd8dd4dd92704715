"""The events of one pass: what it found and did, and which conditions changed. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from torchrun_operator.api.conditions import Condition, ConditionStatus, ConditionType, Reason, find_condition
from torchrun_operator.api.v1alpha1 import TorchrunJobStatus
from torchrun_operator.core.facts.model import Cause
from torchrun_operator.core.findings.backoff import waiting_words
from torchrun_operator.core.findings.failures import describe_failure, rule_words
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.findings.losses import Loss
from torchrun_operator.core.phrases import named
from torchrun_operator.core.policies.plan import Plan

_MOST_SINGLE = 3
"""More pods than this with the same message share one event."""


class EventReason(StrEnum):
    """Reasons of events that are not reasons of conditions."""

    NODE_LOST = "NodeLost"
    SPARE_LOST = "SpareLost"
    WORKERS_FAILED = "WorkersFailed"
    NODE_REMOVED = "NodeRemoved"
    POD_STUCK = "PodStuck"


@dataclass(frozen=True)
class Event:
    """A core/v1 event on the job."""

    reason: str
    message: str
    warning: bool = False


def events(findings: Findings, plan: Plan) -> tuple[Event, ...]:
    """Return the events of what this pass counts, and of the surplus pods that it removes."""
    hang, failure, failed = findings.counts.hang, findings.failure, findings.counts.exhausted
    found = [
        *_losses(_repeated(_judged(_untold(findings, plan), findings), findings), EventReason.NODE_LOST, "Node"),
        *_losses(
            _repeated(findings.losses.spares, findings), EventReason.SPARE_LOST, "Spare node", "training continues"
        ),
    ]
    if findings.workers.count and failure is not None and not failed:
        words = describe_failure(failure)
        message = f"Workers failed{_then(findings, plan)}; {words}"
        found.append(Event(EventReason.WORKERS_FAILED, message, warning=True))
    if hang is not None and not failed:
        found.append(Event(Reason.PROGRESS_DEADLINE_EXCEEDED, f"Workers hang: {hang.told}", warning=True))
    for pod, why in findings.leftovers.untold.items():
        message = f"Pod {pod} {why}; a pod with another name replaces it"
        found.append(Event(EventReason.POD_STUCK, message, warning=True))
    removed = [deletion for deletion in plan.deletions if deletion.surplus]
    if len(removed) <= _MOST_SINGLE:
        found += [Event(EventReason.NODE_REMOVED, f"Pod {d.name} is removed: {d.why}") for d in removed]
    else:
        names = named([deletion.name for deletion in removed])
        found.append(Event(EventReason.NODE_REMOVED, f"{len(removed)} pods ({names}) are removed: {removed[0].why}"))
    return tuple(found)


def _then(findings: Findings, plan: Plan) -> str:
    if plan.restart_all:
        return ""
    moved = findings.moved
    return f" again, and pod {moved.pod} is replaced" if moved is not None else " and restart in place"


def _untold(findings: Findings, plan: Plan) -> list[Loss]:
    """Return the losses that no event of a condition reports: Failed and RestartingAllNodes name the first one."""
    failed, everyone = findings.counts.exhausted, bool(plan.restart_all)
    return [loss for loss in findings.losses.nodes if not (everyone or (failed and loss.cause is Cause.CODE))]


def _judged(losses: Iterable[Loss], findings: Findings) -> list[Loss]:
    """Add to each failure of the code which rule of spec.failurePolicy decides about it."""
    failure = findings.failure
    words = rule_words(failure) if failure is not None else ""
    if failure is None or not words:
        return [*losses]
    cause = Cause(failure.cause)
    return [
        replace(loss, what=f"{loss.what}; {words}", cause=cause) if loss.cause is Cause.CODE else loss
        for loss in losses
    ]


def _repeated(losses: Iterable[Loss], findings: Findings) -> list[Loss]:
    """Add to each loss that repeats soon after the start how often that was, and how long the replacement waits."""
    entries = findings.back_off.nodes
    return [
        replace(loss, what=f"{loss.what}; {waiting_words(entry)}")
        if (entry := entries.get(loss.index)) is not None and entry.failures > 1
        else loss
        for loss in losses
    ]


def _losses(losses: Sequence[Loss], reason: EventReason, node: str, then: str = "") -> Iterable[Event]:
    """Return an event for each loss, or a common one for many that happened in the same way.

    ``then`` says what follows from the loss; without it the event says the cause.
    """
    for group in _alike(losses):
        first = group[0]
        effect = then or f"cause: {first.cause}"
        if len(group) <= _MOST_SINGLE:
            for loss in group:
                yield Event(reason, f"{node} {loss.index} (pod {loss.pod}) {loss.what}; {effect}", warning=True)
        else:
            who = f"{len(group)} {node.lower()}s (pods {named([loss.pod for loss in group])})"
            yield Event(reason, f"Each of {who} {first.what}; {effect}", warning=True)


def _alike(losses: Sequence[Loss]) -> list[list[Loss]]:
    """Group losses with the same description and cause, in the order of the first loss of each group."""
    groups: dict[tuple[str, str], list[Loss]] = {}
    for loss in losses:
        groups.setdefault((loss.what, loss.cause), []).append(loss)
    return [*groups.values()]


_BAD_WHEN_TRUE = frozenset({ConditionType.FAILED, ConditionType.STRAGGLING})
_BAD_WHEN_FALSE = frozenset({ConditionType.ACCEPTED})
_SILENT_WHEN_FALSE = frozenset({ConditionType.SUSPENDED, ConditionType.RUNNING, ConditionType.SCHEDULED})
"""A job starts with these being False. Other events report when they become False later."""
_SILENT_AT_FIRST = frozenset({ConditionType.ACCEPTED, ConditionType.SCHEDULED})
"""These are normally True from the start."""
_TOLD_BY_EVENTS = frozenset({Reason.NODE_LOST, Reason.RESTARTING_WORKERS, Reason.PROGRESS_DEADLINE_EXCEEDED})
"""Reasons for Resizing whose causes have events of their own: NodeLost, WorkersFailed, ProgressDeadlineExceeded."""
_WARNED_OF = frozenset(
    {
        Reason.RESTARTING_ALL,
        Reason.SLOW_TO_STOP,
        Reason.PODS_WAITING,
        Reason.OTHER_RENDEZVOUS,
        Reason.TRAINS_ELSEWHERE,
        Reason.UPLOAD_FAILED,
        Reason.INVALID_OUTPUTS,
    }
)
"""Reasons that get a warning also where the status of their condition was the same before."""


def transitions(old: TorchrunJobStatus, new: TorchrunJobStatus) -> tuple[Event, ...]:
    """Return an event for each condition whose status changed, and for each bad one with a new reason or message."""
    found = []
    for condition in new.conditions:
        before = find_condition(old.conditions, ConditionType(condition.type))
        if _worth_telling(before, condition):
            found.append(Event(condition.reason, condition.message, warning=_bad(condition)))
    return tuple(found)


def _worth_telling(before: Condition | None, after: Condition) -> bool:
    if before is not None and before.status is after.status:
        if after.reason in _WARNED_OF:
            return before.reason != after.reason
        return _bad(after) and (before.reason, before.message) != (after.reason, after.message)
    if after.status is ConditionStatus.TRUE:
        told = after.type == ConditionType.RESIZING and after.reason in _TOLD_BY_EVENTS
        return not told and (before is not None or after.type not in _SILENT_AT_FIRST)
    return _bad(after) or (before is not None and after.type not in _SILENT_WHEN_FALSE)


def _bad(condition: Condition) -> bool:
    if condition.reason in _WARNED_OF:
        return True
    return condition.type in (_BAD_WHEN_TRUE if condition.status is ConditionStatus.TRUE else _BAD_WHEN_FALSE)
