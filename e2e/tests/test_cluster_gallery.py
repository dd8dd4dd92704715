"""The samples in real pods, as a new user submits them: `kubectl torchrun submit sample:NAME --set ...`."""

import re
from collections.abc import Callable

import pytest

from support import gallery
from support.clusters import Cluster
from support.gallery import CLAIM, Ended, Try
from support.kubectl import Kubectl

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400, func_only=True)]

_SHORT = ("total_steps=150", "min_step_seconds=0")


def upload(job: str) -> str:
    """Return the setting that sends the results of a job to a directory of the claim."""
    return f"output_url=pvc://{CLAIM}/{job}"


def ranks(end: Ended, pattern: str) -> dict[str, set[str]]:
    """Return what the pattern finds in the log of each pod."""
    return {pod: set(re.findall(pattern, log, re.MULTILINE)) for pod, log in end.logs.items()}


def lasting(end: Ended) -> tuple[int, int, int]:
    """Return the steps done, the steps of the job, and the step of the newest snapshot."""
    progress = end.status["progress"]
    return progress["step"], progress["totalSteps"], progress["snapshotStep"]


def test_the_recipes_that_people_bring(
    cluster: Cluster, kubectl: Kubectl, record_property: Callable[[str, object], None]
) -> None:
    tries = [
        Try(
            "elastic-torchrun", ("max_nodes=2", "min_nodes=1", "n_gpus_per_node=1", *_SHORT, upload("elastic-torchrun"))
        ),
        Try("train-dist", ("total_epochs=400", "epoch_seconds=0", "n_gpus_per_node=2", upload("train-dist"))),
        Try("multi-node", ("lead_cpu=50m", "total_epochs=10", "epoch_seconds=0", upload("multi-node"))),
        Try("fault-tolerant", (*_SHORT, "max_restarts=1", "fail_at_step=60", "snapshot_every=20")),
        Try("lightning", ("min_nodes=2", "total_epochs=20", "min_step_seconds=0")),
        Try("elastic", _SHORT),
        Try("standalone", _SHORT),
    ]
    kubectl.apply(gallery.claim())
    began = gallery.submit(cluster, kubectl, tries)
    found = {one.job: gallery.ended(kubectl, one.job, began) for one in tries}
    gallery.tell(record_property, found)

    for job in ("elastic-torchrun", "elastic", "standalone", "fault-tolerant"):
        assert found[job].accuracy >= 0.9, job
        assert lasting(found[job]) == (150, 150, 150), job
        restarts = {**gallery.NO_RESTARTS, "code": 1} if job == "fault-tolerant" else gallery.NO_RESTARTS
        assert found[job].status["restarts"] == restarts, job
    assert found["lightning"].accuracy >= 0.9
    assert found["lightning"].status["progress"]["worldSize"] == 2
    assert found["lightning"].status["restarts"] == gallery.NO_RESTARTS
    assert "--fail-at-step=60: this worker fails once" in found["fault-tolerant"].status["lastFailure"]["message"]
    assert found["standalone"].status["progress"]["worldSize"] == 2
    assert len(found["standalone"].logs) == 1

    assert ranks(found["train-dist"], r"^rank=(\d) world=4") == {"train-dist-0": {"0", "1"}, "train-dist-1": {"2", "3"}}
    assert float(found["train-dist"].said("rank=0 epoch=400 from=0 error=(.*)")) < 0.08

    multi = found["multi-node"]
    assert ranks(multi, r"^rank=(\d) world=2 group=\1 from=0$") == {"multi-node-0": {"0"}, "multi-node-1": {"1"}}
    assert {node["index"]: node["rank"] for node in multi.status["nodes"]} == {0: 0, 1: 1}
    assert ranks(multi, r"^node=(\d role=\w+) ip=\S+ lead=multi-node-0") == {
        "multi-node-0": {"0 role=lead"},
        "multi-node-1": {"1 role=worker"},
    }
    (lead,) = ranks(multi, r"^node=0 .* ip=(\S+)")["multi-node-0"]
    assert ranks(multi, r" lead_ip=(\S+) port=29400$") == {"multi-node-0": {lead}, "multi-node-1": {lead}}
    assert multi.accuracy >= 0.85

    uploaded = gallery.results(cluster, kubectl, ["elastic-torchrun", "train-dist", "multi-node"])
    assert {job: (result["job"], result["wrong"]) for job, result in uploaded.items()} == {
        job: (job, []) for job in ("elastic-torchrun", "train-dist", "multi-node")
    }
    assert any("000000000150" in file for file in uploaded["elastic-torchrun"]["files"]), uploaded
    assert uploaded["train-dist"]["files"] == ["snapshot.pt"]
    assert uploaded["multi-node"]["files"] == ["report.json", "snapshot.pt"]
    assert uploaded["multi-node"]["report"] == {"accuracy": multi.accuracy, "world_size": 2, "epochs": 10}
