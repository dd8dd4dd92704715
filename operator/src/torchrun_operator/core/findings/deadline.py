"""The deadline of the whole job: spec.activeDeadlineSeconds, counted from its start or from when it was resumed."""

from datetime import datetime, timedelta

from torchrun_operator.api.conditions import ConditionStatus, ConditionType, find_condition
from torchrun_operator.core.facts.model import Facts


def deadline(facts: Facts) -> datetime | None:
    """Return when the job fails, by the operator's clock. None: it has no deadline, or starts now."""
    seconds, status = facts.job.spec.active_deadline_seconds, facts.job.status
    if seconds is None or status.start_time is None:
        return None
    since = status.start_time
    suspended = find_condition(status.conditions, ConditionType.SUSPENDED)
    if suspended is not None and suspended.status is ConditionStatus.FALSE:
        since = max(since, suspended.last_transition_time)
    return since + timedelta(seconds=seconds)
