"""When a job that has ended is deleted: spec.ttlSecondsAfterFinished after its end and that of its upload."""

from datetime import datetime, timedelta

from torchrun_operator.api.conditions import ConditionType, find_condition
from torchrun_operator.core.facts.model import Facts, Stage
from torchrun_operator.core.findings.uploads import Step, Uploads


def expiry(facts: Facts, upload: Uploads) -> datetime | None:
    """Return when the job is deleted, by the operator's clock. None: it stays, or its end is not known yet.

    A job whose outputs could not be uploaded stays: they would be lost with it, and the upload can be tried again.
    """
    seconds, status = facts.job.spec.ttl_seconds_after_finished, facts.job.status
    since = status.completion_time
    if seconds is None or facts.stage is not Stage.ENDED or since is None:
        return None
    if upload.step is Step.DONE and upload.record == status.upload:  # the status tells the end
        uploaded = find_condition(status.conditions, ConditionType.OUTPUTS_UPLOADED)
        since = max(since, uploaded.last_transition_time) if uploaded is not None else since
    elif upload.step not in (Step.NONE, Step.SKIPPED):
        return None
    return since + timedelta(seconds=seconds)
