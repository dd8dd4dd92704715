"""Events for what has changed between two statuses: one for each condition that turned, none for what stays."""

from torchrun_operator.api.conditions import Condition, ConditionStatus, ConditionType, find_condition
from torchrun_operator.api.v1alpha1 import TorchrunJobStatus
from torchrun_operator.core.decision import Event

_BAD_WHEN_TRUE = frozenset({ConditionType.FAILED, ConditionType.STRAGGLING})
_BAD_WHEN_FALSE = frozenset({ConditionType.ACCEPTED})
_SILENT_WHEN_FALSE = frozenset({ConditionType.SUSPENDED, ConditionType.RUNNING, ConditionType.SCHEDULED})
"""Their False is where a job begins and what other events already tell of."""

_SILENT_AT_FIRST = frozenset({ConditionType.ACCEPTED, ConditionType.SCHEDULED})
"""What is as it should be from the beginning."""


def transitions(old: TorchrunJobStatus, new: TorchrunJobStatus) -> tuple[Event, ...]:
    """Return an event for each condition whose status turned, or that got worse in another way."""
    events = []
    for condition in new.conditions:
        before = find_condition(old.conditions, ConditionType(condition.type))
        if _worth_telling(before, condition):
            events.append(Event(condition.reason, condition.message, warning=_bad(condition)))
    return tuple(events)


def _worth_telling(before: Condition | None, after: Condition) -> bool:
    if before is not None and before.status is after.status:
        return _bad(after) and (before.reason, before.message) != (after.reason, after.message)
    if after.status is ConditionStatus.TRUE:
        return before is not None or after.type not in _SILENT_AT_FIRST
    return _bad(after) or (before is not None and after.type not in _SILENT_WHEN_FALSE)


def _bad(condition: Condition) -> bool:
    if condition.status is ConditionStatus.TRUE:
        return condition.type in _BAD_WHEN_TRUE
    return condition.type in _BAD_WHEN_FALSE
