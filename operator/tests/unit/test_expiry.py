"""A job that has ended is deleted after spec.ttlSecondsAfterFinished, and not before its outputs are uploaded."""

from typing import Any

import pytest

from builders import NOW, THREE, after, at, decide, make_job, make_node, make_rendezvous, seen
from torchrun_operator.api.conditions import ConditionType, Reason, set_condition
from torchrun_operator.api.v1alpha1 import OutputState, TorchrunJob, Upload
from torchrun_operator.core.facts.model import Phase, UploadExit, UploadPod

DONE = tuple(make_node(index, Phase.SUCCEEDED) for index in range(3))
OUTPUTS: dict[str, Any] = {
    "snapshots": {"claimName": "shared"},
    "outputs": [{"path": "/snapshots/model", "url": "s3://results/model"}],
}


def complete(seconds: float = 100, **spec: Any) -> TorchrunJob:
    """Return a job that was complete so long ago."""
    job = after(make_job(**spec), seen(*THREE, rendezvous=make_rendezvous(*THREE)), at(-3600))
    return after(job, seen(*DONE), at(-seconds))


def uploaded(seconds: float, state: OutputState, **spec: Any) -> TorchrunJob:
    """Return a job that was complete long ago, and whose upload came to this end so long ago."""
    job = complete(1000, **OUTPUTS, **spec)
    begun = decide(job, seen(*DONE), NOW).plan.upload
    assert begun is not None
    done = state is OutputState.UPLOADED
    reason = Reason.UPLOADED if done else Reason.UPLOAD_FAILED
    conditions = set_condition(
        job.status.conditions, ConditionType.OUTPUTS_UPLOADED, done, reason, "it ended", now=at(-seconds)
    )
    update = {"conditions": conditions, "upload": Upload(digest=begun.digest, state=state)}
    return job.model_copy(update={"status": job.status.model_copy(update=update)})


def upload_pod(upload: Upload) -> UploadPod:
    """Return the pod of an upload that has ended."""
    if upload.state is OutputState.UPLOADED:
        return UploadPod("digits-outputs", "upload-1", Phase.SUCCEEDED, upload.digest)
    return UploadPod("digits-outputs", "upload-1", Phase.FAILED, upload.digest, (UploadExit(0, 1, "Error"),))


@pytest.mark.parametrize(
    ("job", "deleted", "again"),
    [
        pytest.param(complete(), False, None, id="no field"),
        pytest.param(complete(100, ttlSecondsAfterFinished=160), False, 60.0, id="not yet"),
        pytest.param(complete(100, ttlSecondsAfterFinished=100), True, None, id="now"),
        pytest.param(complete(0, ttlSecondsAfterFinished=0), True, None, id="at once"),
        pytest.param(complete(100_000, ttlSecondsAfterFinished=5), True, None, id="long ago"),
    ],
)
def test_when_a_job_is_deleted(job: TorchrunJob, deleted: bool, again: float | None) -> None:
    found = decide(job, seen(*DONE), NOW).plan
    assert (found.delete_job, found.look_again_seconds) == (deleted, again)


def test_a_job_that_trains_or_is_suspended_stays() -> None:
    trains = after(make_job(ttlSecondsAfterFinished=0), seen(*THREE, rendezvous=make_rendezvous(*THREE)), at(-3600))
    assert not decide(trains, seen(*THREE, rendezvous=make_rendezvous(*THREE)), NOW).plan.delete_job
    suspended = after(make_job(ttlSecondsAfterFinished=0, suspend=True), seen(), at(-3600))
    assert not decide(suspended, seen(), NOW).plan.delete_job


def test_a_failed_job_is_deleted_too() -> None:
    job = after(
        make_job(maxRestarts=0, activeDeadlineSeconds=1, ttlSecondsAfterFinished=60),
        seen(*THREE, rendezvous=make_rendezvous(*THREE)),
        at(-3600),
    )
    failed = after(job, seen(*THREE, rendezvous=make_rendezvous(*THREE)), at(-60))
    assert failed.status.state == "Failed"
    assert decide(failed, seen(), NOW).plan.delete_job


@pytest.mark.parametrize(
    ("job", "deleted", "again"),
    [
        pytest.param(complete(1000, ttlSecondsAfterFinished=50, **OUTPUTS), False, None, id="it has not begun"),
        pytest.param(uploaded(10, OutputState.UPLOADED, ttlSecondsAfterFinished=50), False, 40.0, id="it is young"),
        pytest.param(uploaded(50, OutputState.UPLOADED, ttlSecondsAfterFinished=50), True, None, id="it is over"),
        pytest.param(uploaded(900, OutputState.FAILED, ttlSecondsAfterFinished=50), False, None, id="it has failed"),
    ],
)
@pytest.mark.parametrize("there", [False, True], ids=["its pod is gone", "its pod is there"])
def test_the_seconds_begin_with_the_end_of_the_upload(
    job: TorchrunJob, deleted: bool, again: float | None, there: bool
) -> None:
    upload = job.status.upload
    pod = upload_pod(upload) if there and upload is not None else None
    found = decide(job, seen(*DONE, upload_pod=pod), NOW).plan
    assert (found.delete_job, found.look_again_seconds) == (deleted, again)
