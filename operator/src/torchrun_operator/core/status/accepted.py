"""The condition Accepted: whether the job is valid and the API server accepts its objects."""

from datetime import datetime

from torchrun_operator.api import v1alpha1 as api
from torchrun_operator.api.conditions import ConditionType, Reason, set_condition
from torchrun_operator.core.facts.model import Facts
from torchrun_operator.core.findings.refusals import with_advice
from torchrun_operator.core.status.headline import headline
from torchrun_operator.core.status.verdict import Verdict

_MOST_NAMED = 5


def accepted(facts: Facts) -> Verdict:
    """Return whether the API server accepts the job's objects."""
    if facts.foreign:
        names = ", ".join(facts.foreign[:_MOST_NAMED])
        message = f"pods of another owner have this job's label: {names}; delete them, or give the job another name"
        return Verdict(ConditionType.ACCEPTED, False, Reason.NAME_TAKEN, message)
    if facts.refusal:
        reason = Reason.NAME_TAKEN if facts.name_taken else Reason.REFUSED_BY_CLUSTER
        message = with_advice(facts.refusal, facts.job.metadata.namespace)
        return Verdict(ConditionType.ACCEPTED, False, reason, message)
    return Verdict(ConditionType.ACCEPTED, True, Reason.VALID, "the job is valid")


def unaccepted(
    old: api.TorchrunJobStatus, generation: int, reason: Reason, message: str, now: datetime
) -> api.TorchrunJobStatus:
    """Return the status of an invalid job. All other fields keep their values."""
    conditions = set_condition(
        old.conditions, ConditionType.ACCEPTED, False, reason, message, now=now, generation=generation
    )
    state = api.JobState.INVALID
    told = {"conditions": conditions, "state": state, "message": headline(state, conditions)}
    return old.model_copy(update={**told, "observed_generation": generation})
