"""status.goodput: how much of the time since the first step was spent on steps that count.

Goodput is the share of the time that made progress which was kept; repeated steps and recoveries are lost. From one
report of the script to the next, all time trains, unless another round has begun in between. Then the steps that were
gained since the last report count with the average time of a step, and the rest is lost. Each pass continues from the
stored report, so that it does not matter which reports a pass has seen.
"""

from datetime import datetime

from torchrun_operator.api import v1alpha1 as api
from torchrun_operator.api.conditions import ConditionStatus, ConditionType, find_condition
from torchrun_operator.core.facts.model import Facts, Stage
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.status.progress import progress

_DIGITS = 3


def goodput(facts: Facts, findings: Findings) -> api.Goodput | None:
    """Return the goodput up to the last report. None: there was no report yet."""
    old, before, new = facts.job.status.goodput, facts.job.status.progress, progress(facts)
    if findings.stage is Stage.ENDED or new is None or new.step is None or new.time is None:
        return old
    if old is None or before is None or before.step is None or before.time is None:
        return api.Goodput(since=new.time, first_step=new.step)
    if new.time <= before.time:
        return old
    seconds = max(0.0, (new.time - max(before.time, _resumed(facts) or before.time)).total_seconds())
    trained = seconds
    if _interrupted(facts, before.time, new.time):
        steps = before.step - old.first_step
        average = old.training_seconds / steps if steps > 0 else 0.0
        trained = max(-float(old.training_seconds), min((new.step - before.step) * average, seconds))
    training = old.training_seconds + round(trained)
    lost = old.lost_seconds + max(0, round(seconds) - round(trained))
    return old.model_copy(
        update={
            "ratio": round(training / (training + lost), _DIGITS) if training + lost else None,
            "first_step": min(old.first_step, new.step),
            "training_seconds": training,
            "lost_seconds": lost,
        }
    )


def new_seconds(before: api.Goodput | None, after: api.Goodput | None) -> dict[str, int]:
    """Return how many seconds were trained and lost between two statuses. A step that is repeated was not trained."""
    if after is None:
        return {}
    old = before or after.model_copy(update={"training_seconds": 0, "lost_seconds": 0})
    found = {"training": after.training_seconds - old.training_seconds, "lost": after.lost_seconds - old.lost_seconds}
    return {kind: seconds for kind, seconds in found.items() if seconds > 0}


def _interrupted(facts: Facts, before: datetime, now: datetime) -> bool:
    """Whether another round has begun between two reports, or the job was suspended."""
    formed = facts.rendezvous.completed_at if facts.rendezvous is not None else None
    return formed is not None and before < formed <= now


def _resumed(facts: Facts) -> datetime | None:
    """Return when the job was last resumed, or started. None: it is suspended, or it was never seen."""
    condition = find_condition(facts.job.status.conditions, ConditionType.SUSPENDED)
    if condition is None or condition.status is not ConditionStatus.FALSE:
        return None
    return condition.last_transition_time
