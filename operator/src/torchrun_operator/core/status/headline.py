"""status.message: the message of the condition that decides the state, in one line."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from torchrun_operator.api.conditions import Condition, ConditionType, Reason, find_condition, is_true
from torchrun_operator.api.v1alpha1 import Failure, JobState, MembershipChange
from torchrun_operator.core.facts.model import Cause
from torchrun_operator.core.findings.failures import describe_failure

_MOST_CHARACTERS: Final = 256
_CUT: Final = "…"
_DECIDES: Final = {
    JobState.FAILED: ConditionType.FAILED,
    JobState.COMPLETE: ConditionType.COMPLETE,
    JobState.SUSPENDED: ConditionType.SUSPENDED,
    JobState.RESIZING: ConditionType.RESIZING,
    JobState.INVALID: ConditionType.ACCEPTED,
}


_LIVES: Final = frozenset({JobState.PENDING, JobState.STARTING, JobState.RESIZING, JobState.RUNNING})
_NEWS: Final = timedelta(minutes=1)
"""A job that fails again and again may train in between. Its failure stays in the line for this long."""


def headline(
    state: JobState,
    conditions: Iterable[Condition],
    change: MembershipChange | None = None,
    failure: Failure | None = None,
    now: datetime | None = None,
) -> str:
    """Return why the job is in this state, for the first line that a person reads. Empty if nothing is known.

    While a job recovers from a failure of its code (``change`` is the last change of its membership), and for a while
    afterwards, the line has the words of that ``failure`` as well.
    """
    known = tuple(conditions)
    found = find_condition(known, _DECIDES.get(state) or _of_live_job(state, known))
    words = " ".join(found.message.split()) if found is not None else ""
    if state in _LIVES and _is_news(change, now) and failure is not None and failure.cause == Cause.CODE:
        words += f"; before that, {' '.join(describe_failure(failure).split())}"
    return words if len(words) <= _MOST_CHARACTERS else words[: _MOST_CHARACTERS - len(_CUT)] + _CUT


def _is_news(change: MembershipChange | None, now: datetime | None) -> bool:
    """Whether the job recovers from a failure of its code, or did so just now."""
    if change is None or change.cause != Cause.CODE:
        return False
    return change.recovery_seconds is None or (now is not None and now - change.time < _NEWS)


def _of_live_job(state: JobState, known: tuple[Condition, ...]) -> ConditionType:
    """Return the condition that says most about a job that starts or trains."""
    reasons = {condition.type: condition.reason for condition in known}
    if state is JobState.PENDING and reasons.get(ConditionType.SCHEDULED) == Reason.WAITING_FOR_CAPACITY:
        return ConditionType.SCHEDULED
    if state is JobState.RUNNING and reasons.get(ConditionType.RESIZING) == Reason.SHORT_OF_NODES:
        return ConditionType.RESIZING
    if state is JobState.RUNNING and is_true(known, ConditionType.STRAGGLING):
        return ConditionType.STRAGGLING
    return ConditionType.RUNNING
