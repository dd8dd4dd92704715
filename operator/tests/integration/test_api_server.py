"""The TorchrunJob resource on a real API server: output of kubectl, defaults, scaling, status."""

import copy
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from torchrun_operator.api.conditions import ConditionType, Reason, set_condition
from torchrun_operator.api.v1alpha1 import (
    Goodput,
    JobState,
    Membership,
    MembershipChange,
    NodeStatus,
    Progress,
    RendezvousStatus,
    Restarts,
    TorchrunJobStatus,
    job_of,
    status_of,
)

pytestmark = pytest.mark.integration

JOBS = "/apis/torchrun.dev/v1alpha1/namespaces/default/torchrunjobs"
NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
SPEC = {
    "nnodes": "2:4",
    "template": {"spec": {"containers": [{"name": "trainer", "image": "training", "command": ["torchrun", "a.py"]}]}},
}
STATUS = TorchrunJobStatus(
    observed_generation=1,
    state=JobState.RUNNING,
    message="3 of 4 nodes train",
    conditions=set_condition((), ConditionType.RUNNING, True, Reason.TRAINING, "3 nodes train", now=NOW, generation=1),
    replicas=3,
    ready_replicas=3,
    selector="torchrun.dev/job-name=digits,torchrun.dev/role=node",
    membership=Membership(
        round=2,
        nodes=3,
        world_size=6,
        desired_nodes=4,
        summary="3/2:4",
        instance="abc",
        last_change=MembershipChange(time=NOW, cause="infrastructure", recovery_seconds=5.5, lost_steps=12),
    ),
    restarts=Restarts(code=1, infrastructure=2),
    restart_count=3,
    rendezvous=RendezvousStatus(instance="abc", unrequested=1, since=NOW),
    goodput=Goodput(ratio=0.9, since=NOW, training_seconds=90, lost_seconds=10),
    progress=Progress(
        step=40,
        total_steps=100,
        epoch=1,
        loss=0.25,
        samples_per_second=812.5,
        world_size=6,
        snapshot_step=32,
        snapshot_time=NOW,
        time=NOW,
    ),
    start_time=NOW,
    completion_time=NOW,
    nodes=(NodeStatus(index=0, pod="digits-0", uid="u", machine="m", phase="Running", address="10.0.0.1", rank=0),),
)


@pytest.fixture
def job(torchrunjobs: Any) -> Iterator[Callable[..., str]]:
    """Create jobs that are deleted after the test: a function from a spec to the path of the job."""
    made: list[str] = []

    def make(name: str = "digits", **spec: Any) -> str:
        body = {"apiVersion": "torchrun.dev/v1alpha1", "kind": "TorchrunJob", "metadata": {"name": name}}
        status, answer = torchrunjobs.request("POST", JOBS, body | {"spec": copy.deepcopy(SPEC) | spec})
        assert status == 201, answer["message"]
        made.append(f"{JOBS}/{name}")
        return made[-1]

    yield make
    for path in made:
        torchrunjobs.request("DELETE", path)


def test_explain_shows_how_to_write_nnodes(torchrunjobs: Any, kubectl: Callable[..., str]) -> None:
    text = " ".join(kubectl("explain", "torchrunjob.spec.nnodes").split())
    assert 'Number of nodes as in torchrun --nnodes: a number, or "MIN:MAX"' in text
    assert 'Example: "2:4".' in text
    assert "nnodes <Object> -required-" in " ".join(kubectl("explain", "trj.spec").split())


def test_explain_knows_the_pod_template(torchrunjobs: Any, kubectl: Callable[..., str]) -> None:
    assert "limits\t<map[string]Object>" in kubectl("explain", "trj.spec.template.spec.containers.resources")


def test_kubectl_refuses_unknown_fields_of_pods(torchrunjobs: Any, kubectl: Callable[..., str], tmp_path: Any) -> None:
    manifest = tmp_path / "job.yaml"
    manifest.write_text(
        "apiVersion: torchrun.dev/v1alpha1\nkind: TorchrunJob\nmetadata: {name: digits}\nspec:\n  nnodes: 1\n"
        "  template: {spec: {nodeSelectr: {a: b}, containers: [{name: trainer, image: training}]}}\n"
    )
    for how in (["create"], ["apply"], ["apply", "--server-side"]):
        said = kubectl(*how, "-f", str(manifest))
        assert "nodeSelectr" in said, said
        assert "created" not in said, said


def test_server_and_model_have_the_same_defaults(torchrunjobs: Any, job: Callable[..., str]) -> None:
    _, stored = torchrunjobs.request("GET", job(snapshots={"claimName": "shared"}))
    bare = {"metadata": stored["metadata"], "spec": SPEC | {"snapshots": {"claimName": "shared"}}}
    assert job_of(stored).spec == job_of(bare).spec
    assert stored["spec"]["rendezvous"] == {
        "backend": "c10d",
        "host": "Dedicated",
        "port": 29400,
        "lastCallSeconds": 15,
    }


def test_status_is_kept_whole_and_only_by_its_subresource(torchrunjobs: Any, job: Callable[..., str]) -> None:
    path = job()
    code, answer = torchrunjobs.request("PATCH", f"{path}/status", {"status": STATUS.wire()}, fieldValidation="Strict")
    assert code == 200, answer["message"]
    assert answer["status"] == STATUS.wire()
    assert status_of(answer) == STATUS
    torchrunjobs.request("PATCH", path, {"status": {"state": "Failed"}})
    assert torchrunjobs.request("GET", path)[1]["status"]["state"] == "Running"


def test_get_shows_how_the_job_is_doing(
    torchrunjobs: Any, job: Callable[..., str], kubectl: Callable[..., str]
) -> None:
    torchrunjobs.request("PATCH", f"{job()}/status", {"status": STATUS.wire()})
    head, row = (line.split() for line in kubectl("get", "trj", "digits").splitlines())
    assert head == ["NAME", "NODES", "WORLD", "STATE", "STEP", "RESTARTS", "AGE", "MESSAGE"]
    assert row[:6] == ["digits", "3/2:4", "6", "Running", "40", "3"]
    assert row[7:] == ["3", "of", "4", "nodes", "train"]
    head, row = (line.split() for line in kubectl("get", "torchrunjobs", "digits", "-o", "wide").splitlines())
    assert head[8:] == ["LOSS", "SAMPLES/S", "SNAPSHOT", "GOODPUT", "ROUND", "LAST-CHANGE"]
    assert row[12:] == ["0.25", "812.5", "32", "0.9", "2", "infrastructure"]
    assert "digits" in kubectl("get", "all")
    assert "digits" in kubectl("get", "training")


def test_scale(torchrunjobs: Any, job: Callable[..., str], kubectl: Callable[..., str]) -> None:
    path = job(replicas=4)
    torchrunjobs.request("PATCH", f"{path}/status", {"status": STATUS.wire()})
    assert "scaled" in kubectl("scale", "trj/digits", "--replicas=2")
    _, scale = torchrunjobs.request("GET", f"{path}/scale")
    assert scale["spec"] == {"replicas": 2}
    assert scale["status"] == {"replicas": 3, "selector": STATUS.selector}
    assert torchrunjobs.request("GET", path)[1]["spec"]["replicas"] == 2


def test_scale_beyond_the_range_is_refused(
    torchrunjobs: Any, job: Callable[..., str], kubectl: Callable[..., str]
) -> None:
    job(replicas=4)
    assert "must be from MIN to MAX of spec.nnodes, which is 2:4" in kubectl("scale", "trj/digits", "--replicas=7")


def test_scale_of_a_job_without_replicas(
    torchrunjobs: Any, job: Callable[..., str], kubectl: Callable[..., str]
) -> None:
    path = job()
    _, scale = torchrunjobs.request("GET", f"{path}/scale")
    assert "spec" not in scale, "which is 0 to an autoscaler, and it leaves the job alone"
    assert "scaled" in kubectl("scale", "trj/digits", "--replicas=3")
    assert torchrunjobs.request("GET", path)[1]["spec"]["replicas"] == 3
