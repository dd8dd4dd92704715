"""Outputs in an S3 server, from jobs in real pods: uploads while it trains, wrong credentials, and a lost pod."""

import hashlib
import json
from pathlib import Path

import pytest

from support import clusterstore, gallery
from support.cli import CliError, torchrun
from support.clusters import Cluster
from support.clusterstore import ClusterStore
from support.gallery import Try
from support.kubectl import Kubectl, Object
from support.waiting import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400, func_only=True)]

_BUCKET = "results"
_MANIFEST = "_torchrun_manifest.json"
_SECONDS = 120.0


def values(job: str, *others: str) -> tuple[str, ...]:
    """Return the settings of a job on one node that uploads its snapshots."""
    uploads = (f"output_url=s3://{_BUCKET}/{job}", f"output_image={clusterstore.TRANSFER_IMAGE}")
    return ("max_nodes=1", "min_nodes=1", "n_gpus_per_node=1", *uploads, *others)


def uploaded(kubectl: Kubectl, job: str) -> Object:
    """Return the condition about the upload, and under `outputs` the state of each output."""
    status: Object = (kubectl.get("torchrunjob", job) or {}).get("status") or {}
    found = [each for each in status.get("conditions") or () if each["type"] == "OutputsUploaded"]
    return {**(found[0] if found else {}), "outputs": [each["state"] for each in status.get("outputs") or ()]}


def require_whole_copy(store: ClusterStore, job: str) -> dict[str, bytes]:
    """Check that the manifest of the job lists exactly what is there, with the right checksums; return the files."""
    content = store.content(_BUCKET, job)
    manifest = json.loads(content.pop(_MANIFEST))
    assert manifest["job"]["name"] == job
    sums = {path: hashlib.sha256(data).hexdigest() for path, data in content.items()}
    assert {each["path"]: each["sha256"] for each in manifest["files"]} == sums
    assert any("000000000" in path for path in sums), sums
    return content


def pod_of(kubectl: Kubectl, job: str) -> Object:
    return kubectl.get("pod", f"{job}-outputs") or {"metadata": {"uid": None}, "status": {"phase": None}}


@pytest.mark.gallery
def test_an_upload_outlives_the_server_and_its_pod(cluster: Cluster, kubectl: Kubectl, tmp_path: Path) -> None:
    store = clusterstore.start(cluster, kubectl, [_BUCKET])
    kubectl.apply(store.secret("right"))
    settings = values("lasting", "total_steps=300", "min_step_seconds=0.1", "output_secret=right", "output_seconds=5")
    began = gallery.submit(cluster, kubectl, [Try("elastic-torchrun", settings, name="lasting")])

    # While it trains: a manifest, and snapshots.
    wait_for("a copy while it trains", lambda: _MANIFEST in store.content(_BUCKET, "lasting"), _SECONDS)
    assert uploaded(kubectl, "lasting")["reason"] == "UploadingPeriodically"

    # The server goes out of reach, the training ends, and the pod that uploads is lost: another one goes on.
    kubectl.patch("service", "s3", {"spec": {"selector": {"app": "nothing"}}})
    assert gallery.ended(kubectl, "lasting", began).accuracy >= 0.9
    last = f"{300:012d}"
    assert not any(last in path for path in store.content(_BUCKET, "lasting"))
    wait_for(
        "the upload after the end",
        lambda: uploaded(kubectl, "lasting")["outputs"] == ["Uploading"],
        _SECONDS,
        seen=lambda: uploaded(kubectl, "lasting"),
    )

    def uploads() -> bool:
        return bool(pod_of(kubectl, "lasting")["status"]["phase"] == "Running")

    wait_for("the pod that uploads", uploads, _SECONDS)
    first = pod_of(kubectl, "lasting")["metadata"]["uid"]
    kubectl.run("delete", "pod", "lasting-outputs", "--force", "--grace-period=0")

    def another() -> bool:
        pod = pod_of(kubectl, "lasting")
        return pod["metadata"]["uid"] != first and bool(pod["status"]["phase"] == "Running")

    wait_for("another pod that uploads", another, _SECONDS, seen=lambda: pod_of(kubectl, "lasting")["status"])
    kubectl.patch("service", "s3", {"spec": {"selector": {"app": "s3"}}})
    torchrun(kubectl, "outputs", "lasting", "--wait")
    assert uploaded(kubectl, "lasting")["outputs"] == ["Uploaded"]
    copy = require_whole_copy(store, "lasting")
    assert any(last in path for path in copy)
    assert store.unfinished(_BUCKET) == []

    # What is there comes back through a pod: only the Secret has the credentials.
    torchrun(kubectl, "outputs", "lasting", "--download", str(tmp_path))
    (root,) = tmp_path.iterdir()
    assert {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()} == copy


def test_wrong_credentials_are_named_and_put_right(cluster: Cluster, kubectl: Kubectl) -> None:
    store = clusterstore.start(cluster, kubectl, [_BUCKET])
    kubectl.apply(store.secret("mine", AWS_SECRET_ACCESS_KEY="mistyped"))
    settings = values("refused", "total_steps=100", "min_step_seconds=0", "output_secret=mine")
    began = gallery.submit(cluster, kubectl, [Try("elastic-torchrun", settings, name="refused")])
    step = gallery.ended(kubectl, "refused", began).status["progress"]["step"]
    wait_for(
        "the refused upload",
        lambda: uploaded(kubectl, "refused").get("reason") == "UploadFailed",
        _SECONDS,
        seen=lambda: uploaded(kubectl, "refused"),
    )
    said = uploaded(kubectl, "refused")
    assert (said["status"], said["outputs"]) == ("False", ["Failed"])
    assert "s3://results/refused refuses access: " in said["message"], said
    with pytest.raises(CliError, match="refuses access"):
        torchrun(kubectl, "outputs", "refused", "--wait")
    assert store.content(_BUCKET, "refused") == {}

    # The job is complete, and is not trained again.
    kubectl.apply(store.secret("mine"))
    torchrun(kubectl, "outputs", "refused", "--retry", "--wait")
    assert uploaded(kubectl, "refused")["outputs"] == ["Uploaded"]
    require_whole_copy(store, "refused")
    job = kubectl.get("torchrunjob", "refused")
    assert job is not None
    assert (job["status"]["state"], job["status"]["progress"]["step"]) == ("Complete", step)
    assert store.unfinished(_BUCKET) == []
