"""The upload of the outputs: which pod is due, when, and what the status says."""

import json
from dataclasses import replace
from typing import Any

import pytest

from builders import (
    DIGEST,
    NOW,
    THREE,
    Manifest,
    after,
    at,
    decide,
    facts,
    make_job,
    make_node,
    seen,
    suspended,
    training_job,
)
from torchrun_operator.api.conditions import ConditionType, Reason, find_condition, set_condition
from torchrun_operator.api.names import ANNOTATION_RETRY_OUTPUTS
from torchrun_operator.api.v1alpha1 import OutputState, OutputStatus, TorchrunJob
from torchrun_operator.core.decide import Decision
from torchrun_operator.core.facts.model import Facts, NodePod, Phase, UploadExit, UploadPod, Wait
from torchrun_operator.core.facts.uploads import Uploaded, upload_pod, uploaded
from torchrun_operator.core.policies.plan import Deletion, Upload

SNAPSHOTS = {"claimName": "shared"}
ONCE: Manifest = {"path": "/snapshots/model", "url": "s3://results/model"}
ALWAYS: Manifest = {"path": "/snapshots/logs", "url": "s3://results/logs", "when": "Always"}
PERIODIC: Manifest = {"path": "/snapshots", "url": "s3://results/all", "when": "Periodic", "seconds": 60}
DONE = tuple(make_node(index, Phase.SUCCEEDED) for index in range(3))


def job_with(*outputs: Manifest, **spec: Any) -> TorchrunJob:
    return training_job(snapshots=SNAPSHOTS, outputs=list(outputs), **spec)


def ended(job: TorchrunJob, *, failed: bool = False) -> TorchrunJob:
    """Return the job after the end of its training."""
    kind, reason = (
        (ConditionType.FAILED, Reason.MAX_RESTARTS_EXCEEDED) if failed else (ConditionType.COMPLETE, Reason.FINISHED)
    )
    conditions = set_condition(job.status.conditions, kind, True, reason, "", now=NOW)
    status = job.status.model_copy(update={"conditions": conditions, "completion_time": NOW})
    return job.model_copy(update={"status": status})


def digest_of(job: TorchrunJob) -> str:
    """Return the digest of the upload that is due."""
    upload = decide(job, over(), NOW).plan.upload
    assert upload is not None
    return upload.digest


def over(nodes: tuple[NodePod, ...] = DONE, **changes: Any) -> Facts:
    """Return the facts after the end of the training: the rendezvous pod is gone."""
    return facts(nodes=nodes, token_digest=DIGEST, **changes)


def pod(digest: str, phase: Phase = Phase.RUNNING, *exits: UploadExit, **changes: Any) -> UploadPod:
    return UploadPod("digits-outputs", "upload-1", phase, digest, exits, **changes)


def said(decision: Decision) -> tuple[str, str, str] | None:
    found = find_condition(decision.status.conditions, ConditionType.OUTPUTS_UPLOADED)
    return None if found is None else (found.status.value, found.reason, found.message)


def states(decision: Decision) -> list[tuple[str, int | None]]:
    return [(output.state.value, output.files) for output in decision.status.outputs or ()]


def report(files: int, size: int, error: str = "") -> str:
    return json.dumps({"files": files, "bytes": size, **({"error": error} if error else {})})


@pytest.mark.parametrize(
    ("outputs", "stage", "due", "periodic", "condition", "expected"),
    [
        ([], "complete", None, False, None, []),
        ([ONCE, ALWAYS], "active", None, False, None, [("Waiting", None), ("Waiting", None)]),
        (
            [ONCE, PERIODIC], "active", (1,), True,
            ("False", "Uploading", "the outputs are being uploaded to s3://results/all"),
            [("Waiting", None), ("Uploading", None)],
        ),
        (
            [ONCE, ALWAYS, PERIODIC], "complete", (0, 1, 2), False,
            (
                "False", "Uploading",
                "the outputs are being uploaded to s3://results/model, s3://results/logs, s3://results/all",
            ),
            [("Uploading", None)] * 3,
        ),
        (
            [ONCE, ALWAYS, PERIODIC], "failed", (1, 2), False,
            ("False", "Uploading", "the outputs are being uploaded to s3://results/logs, s3://results/all"),
            [("Skipped", None), ("Uploading", None), ("Uploading", None)],
        ),
        (
            [ONCE], "failed", None, False,
            ("False", "NotUploaded", "the job has failed; outputs that are uploaded then have when: Always"),
            [("Skipped", None)],
        ),
    ],
)  # fmt: skip
def test_what_is_due(
    outputs: list[Manifest],
    stage: str,
    due: tuple[int, ...] | None,
    periodic: bool,
    condition: tuple[str, str, str] | None,
    expected: list[tuple[str, int | None]],
) -> None:
    job = job_with(*outputs)
    nodes = THREE if stage == "active" else DONE
    job = job if stage == "active" else ended(job, failed=stage == "failed")
    decision = decide(job, (seen(*nodes) if stage == "active" else over()), NOW)
    upload = decision.plan.upload
    assert (upload.positions if upload else None, bool(upload and upload.periodic)) == (due, periodic)
    assert (said(decision), states(decision)) == (condition, expected)
    assert decision.plan.apply_objects or due is None


def test_an_upload_waits_for_the_pods_of_the_job() -> None:
    job = ended(job_with(ONCE))
    running = over(nodes=(*DONE[:2], make_node(2)))
    decision = decide(job, running, at(1))
    assert (decision.plan.upload, decision.plan.look_again_seconds) == (None, 119.0)
    assert said(decision) == ("False", "Uploading", "pods of the job still run")
    assert decide(job, running, at(120)).plan.upload is not None


def test_a_pod_that_uploads_is_left_alone() -> None:
    job = ended(job_with(ONCE))
    decision = decide(job, over(upload_pod=pod(digest_of(job))), NOW)
    assert (decision.plan.upload, decision.plan.deletions) == (None, ())
    waiting = pod(digest_of(job), Phase.STARTING, wait=Wait("ErrImagePull", "not found"))
    decision = decide(job, over(upload_pod=waiting), NOW)
    assert said(decision) == ("False", "Uploading", "pod digits-outputs waits: ErrImagePull: not found")


def test_the_end_of_an_upload_is_told_once_and_kept() -> None:
    job = ended(job_with(ONCE, ALWAYS))
    exits = (UploadExit(0, 0, "Completed", report(3, 4096)), UploadExit(1, 0, "Completed", report(1, 7)))
    decision = decide(job, over(upload_pod=pod(digest_of(job), Phase.SUCCEEDED, *exits)), NOW)
    told = ("True", "Uploaded", "4 files and the manifests are at s3://results/model, s3://results/logs")
    assert (said(decision), states(decision)) == (told, [("Uploaded", 3), ("Uploaded", 1)])
    assert [event.reason for event in decision.events] == []
    job = after(job, over(upload_pod=pod(digest_of(job), Phase.SUCCEEDED, *exits)))
    gone = decide(job, over(), at(60))
    assert (gone.plan.upload, said(gone), states(gone)) == (None, told, [("Uploaded", 3), ("Uploaded", 1)])


def test_an_upload_that_gave_up_says_why_and_how_to_repeat_it() -> None:
    job = ended(job_with(ONCE, ALWAYS))
    exits = (
        UploadExit(0, 1, "Error", report(0, 0, "s3://results/model refuses access")),
        UploadExit(1, 0, "", report(1, 7)),
    )
    failed = pod(digest_of(job), Phase.FAILED, *exits)
    decision = decide(job, over(upload_pod=failed), NOW)
    assert said(decision) == (
        "False",
        "UploadFailed",
        (
            "output /snapshots/model: s3://results/model refuses access; correct the cause, then upload again with "
            "kubectl -n team annotate trj digits --overwrite torchrun.dev/retry-outputs=$(date +%s)"
        ),
    )
    assert states(decision) == [("Failed", None), ("Uploaded", 1)]
    assert (decision.status.outputs or ())[0].message == "s3://results/model refuses access"
    assert (decision.plan.upload, decision.plan.deletions) == (None, ())
    job = after(job, over(upload_pod=failed))
    assert decide(job, over(), at(60)).plan.upload is None
    again = job.model_copy(
        update={"metadata": job.metadata.model_copy(update={"annotations": {ANNOTATION_RETRY_OUTPUTS: "1"}})}
    )
    decision = decide(again, over(upload_pod=failed), at(60))
    assert decision.plan.deletions == (Deletion("digits-outputs", "upload-1", "another upload is due", 0),)
    decision = decide(again, over(), at(61))
    assert (decision.plan.upload is not None, states(decision)) == (True, [("Uploading", None), ("Uploading", 1)])


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"exits": (UploadExit(0, 137, "Error", ""),)}, "output /snapshots/model: exit code 137"),
        ({"exits": (UploadExit(0, 143, "Error", ""),)}, "output /snapshots/model: exit code 143"),
        ({"reason": "Evicted", "message": "The node was low on resource"}, "The node was low on resource"),
        ({"phase": Phase.LOST, "trouble": "its Kubernetes node is gone"}, "its Kubernetes node is gone"),
    ],
)
def test_an_interrupted_upload_is_repeated_after_a_wait(changed: dict[str, Any], why: str) -> None:
    job = ended(job_with(ONCE))
    digest = digest_of(job)
    waits = []
    for number in range(1, 11):
        broken = replace(pod(digest, Phase.FAILED), uid=f"upload-{number}", **changed)
        decision = decide(job, over(upload_pod=broken), NOW)
        assert [deletion.uid for deletion in decision.plan.deletions] == [f"upload-{number}"]
        assert said(decision) == ("False", "Uploading", f"the pod that uploads was interrupted: {why}")
        job = after(job, over(upload_pod=broken))
        again = after(job, over(upload_pod=broken))  # the same pod counts once
        assert again.status.upload == job.status.upload
        waits.append(decide(job, over(), NOW).plan.look_again_seconds)
        assert decide(job, over(), at(60)).plan.upload is not None
    assert waits == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0, 60.0, 60.0]
    broken = replace(pod(digest, Phase.FAILED), uid="upload-11", **changed)
    decision = decide(job, over(upload_pod=broken), NOW)
    assert (said(decision) or ("", ""))[1] == "UploadFailed"
    assert decision.plan.deletions == ()


def test_too_little_memory_is_not_repeated() -> None:
    job = ended(job_with(ONCE))
    broken = pod(digest_of(job), Phase.FAILED, UploadExit(0, 137, "OOMKilled", ""))
    assert (said(decide(job, over(upload_pod=broken), NOW)) or ("", ""))[1] == "UploadFailed"


def test_the_periodic_upload_ends_with_the_training() -> None:
    job = job_with(PERIODIC)
    upload = decide(job, seen(*THREE), NOW).plan.upload
    assert upload == Upload((0,), upload.digest if upload else "", periodic=True)
    running = seen(*THREE, upload_pod=pod(upload.digest if upload else ""))
    decision = decide(job, running, NOW)
    assert decision.plan.deletions == ()
    assert said(decision) == (
        "False", "UploadingPeriodically", "the outputs are uploaded to s3://results/all while the job trains",
    )  # fmt: skip
    over = decide(ended(job), replace(running, nodes=DONE), NOW)
    assert [(deletion.name, deletion.why) for deletion in over.plan.deletions if deletion.name == "digits-outputs"] == [
        ("digits-outputs", "another upload is due")
    ]


def test_a_suspended_job_uploads_nothing() -> None:
    job = suspended(job_with(PERIODIC))
    decision = decide(job, seen(*THREE, upload_pod=pod("any")), NOW)
    assert decision.plan.upload is None
    assert Deletion("digits-outputs", "upload-1", "spec.suspend is true") in decision.plan.deletions


def test_outputs_that_become_wrong_after_the_end() -> None:
    job = ended(job_with({"path": "/tmp/model", "url": "s3://results/model"}))
    decision = decide(job, over(), NOW)
    assert decision.plan.upload is None
    assert said(decision) == (
        "False",
        "InvalidOutputs",
        (
            "spec.outputs[0].path: the trainer container mounts no volume there, so the files end with the pods; write "
            "below spec.snapshots.mountPath, or mount a PersistentVolumeClaim there; correct spec.outputs"
        ),
    )


def test_a_refused_pod_is_named() -> None:
    job = ended(job_with(ONCE))
    decision = decide(job, over(refusal="pods digits-outputs is forbidden: exceeded quota"), NOW)
    assert said(decision) == ("False", "Uploading", "pods digits-outputs is forbidden: exceeded quota")
    assert decision.plan.upload is not None


def test_outputs_that_are_removed_from_the_spec() -> None:
    decision = decide(make_job(), seen(*THREE, upload_pod=pod("any")), NOW)
    assert Deletion("digits-outputs", "upload-1", "spec.outputs is empty") in decision.plan.deletions


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ('{"files": 3, "bytes": 7}', Uploaded(3, 7)),
        ('{"files": 0, "bytes": 0, "error": "no"}', Uploaded(0, 0, "no")),
        ('{"files": -1, "bytes": 7}', Uploaded(0, 7)),
        ('{"files": 1e30, "bytes": 1}', None), ('{"files": ' + "9" * 30 + ', "bytes": 1}', Uploaded(2**62, 1)),
        ("[" * 4000, None), ("", None), ("[]", None), ("null", None), ('{"files": 3}', None),
        ('{"files": "x", "bytes": 1}', None),
        ('{"files": 1e999, "bytes": 1}', None),
    ],
)  # fmt: skip
def test_what_the_program_reports(message: str, expected: Uploaded | None) -> None:
    assert uploaded(message) == expected


def test_a_pod_as_the_api_server_reports_it() -> None:
    raw = {
        "metadata": {"name": "digits-outputs", "uid": "u", "annotations": {"torchrun.dev/outputs-digest": "d"}},
        "status": {
            "phase": "Failed",
            "containerStatuses": [
                {"name": "output-1", "state": {"terminated": {"exitCode": 1, "reason": "Error", "message": " no\n"}}},
                {"name": "output-0", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
                {"name": "istio-proxy", "state": {"terminated": {"exitCode": 0}}},
                {"name": "output-2", "state": {"running": {}}},
            ],
        },
    }
    exits = (UploadExit(0, 0, "Completed", ""), UploadExit(1, 1, "Error", "no"))
    assert upload_pod(raw, Phase.FAILED, "") == UploadPod("digits-outputs", "u", Phase.FAILED, "d", exits)
    assert upload_pod(raw, Phase.RUNNING, "gone").phase is Phase.LOST


def test_the_states_in_the_status_survive_a_round_trip() -> None:
    status = OutputStatus(path="/a", url="s3://b", state=OutputState.UPLOADED, files=1, bytes=2)
    assert OutputStatus.model_validate(status.wire()) == status
