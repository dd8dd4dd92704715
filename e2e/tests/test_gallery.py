"""The other samples in real pods: frameworks, sharded snapshots, tracking, and fixed ranks made elastic."""

import re
from collections.abc import Callable

import pytest

from support import gallery
from support.cli import CliError, torchrun
from support.clusters import Cluster
from support.gallery import CLAIM, Try
from support.kubectl import Kubectl
from support.progress import Training

pytestmark = [pytest.mark.cluster, pytest.mark.gallery, pytest.mark.timeout(600, func_only=True)]

_SHORT = "min_step_seconds=0"


def test_frameworks(cluster: Cluster, kubectl: Kubectl, record_property: Callable[[str, object], None]) -> None:
    tries = [Try("accelerate", (_SHORT,)), Try("hf-trainer", (_SHORT,))]
    began = gallery.submit(cluster, kubectl, tries)
    for one in tries:
        end = gallery.ended(kubectl, one.job, began)
        record_property("said", f"sample {one.job}: {end.seconds:.0f} s, accuracy {end.accuracy}")
        assert end.accuracy >= 0.9, one.job
        assert end.status["progress"]["worldSize"] == 2, one.job
        assert end.status["restarts"] == {"code": 0, "infrastructure": 0, "preemption": 0, "resize": 0}, one.job


def test_shards_are_distributed_anew_on_a_resize(
    cluster: Cluster, kubectl: Kubectl, record_property: Callable[[str, object], None]
) -> None:
    began = gallery.submit(cluster, kubectl, [Try("fsdp2", ("min_step_seconds=0.1", "snapshot_every=20"))])
    followed = Training(kubectl, "fsdp2")
    try:
        followed.wait("a snapshot of two workers", lambda step: step.world == 2 and (step.snapshot or 0) >= 20, 240)
    finally:
        followed.stop()
    torchrun(kubectl, "scale", "fsdp2", "1")
    end = gallery.ended(kubectl, "fsdp2", began)
    record_property("said", f"sample fsdp2: {end.seconds:.0f} s with a resize, accuracy {end.accuracy}")
    assert end.accuracy >= 0.9
    assert end.status["restarts"] == {"code": 0, "infrastructure": 0, "preemption": 0, "resize": 1}
    assert end.status["progress"]["worldSize"] == 1
    starts = re.findall(r"^rank=0 world=(\d) from=(\d+) parameters=(\d+) mine=(\d+)", end.logs["fsdp2-0"], re.MULTILINE)
    world, first, whole, mine = starts[-1]
    assert (world, mine) == ("1", whole)
    assert int(first) > 20


def test_tracking_and_fixed_ranks_made_elastic(
    cluster: Cluster, kubectl: Kubectl, record_property: Callable[[str, object], None]
) -> None:
    tracked = (
        "max_nodes=1",
        "min_nodes=1",
        "total_steps=150",
        _SHORT,
        "track=wandb",
        f"output_url=pvc://{CLAIM}/wandb",
    )
    elastic = ("elastic=true", "lead_cpu=50m", "total_epochs=10", "epoch_seconds=0", "prepare_seconds=1")
    tries = [Try("elastic-torchrun", (*tracked, "output_seconds=5"), "tracked"), Try("multi-node", elastic)]
    kubectl.apply(gallery.claim())
    began = gallery.submit(cluster, kubectl, tries)
    found = {one.job: gallery.ended(kubectl, one.job, began) for one in tries}
    for job, end in found.items():
        record_property("said", f"sample {job}: {end.seconds:.0f} s, accuracy {end.accuracy}")
        assert end.accuracy >= 0.85, job
    for pod, log in found["multi-node"].logs.items():
        assert re.findall(r"^node=(\d)", log, re.MULTILINE) == [pod[-1]]
        assert re.search("world=2 group=[01] from=0", log)
    uploaded = gallery.results(cluster, kubectl, ["tracked"])["wandb"]
    assert uploaded["wrong"] == []
    assert [name for name in uploaded["files"] if re.fullmatch(r"wandb/offline-run-.*/run-.*\.wandb", name)], uploaded


def test_lightning_with_fixed_ranks_and_a_trainer_with_wrong_numbers(
    cluster: Cluster, kubectl: Kubectl, record_property: Callable[[str, object], None]
) -> None:
    wrong = Try("lightning", ("num_nodes=5", "max_nodes=1", "max_restarts=0"), name="wrong")
    right = Try("lightning", ("launcher=python", "total_epochs=20", _SHORT))
    began = gallery.submit(cluster, kubectl, [right, wrong])
    found = {
        right.job: gallery.ended(kubectl, right.job, began),
        wrong.job: gallery.ended(kubectl, wrong.job, began, state="Failed"),
    }
    gallery.tell(record_property, found)
    assert found["lightning"].accuracy >= 0.9
    assert found["lightning"].status["progress"]["worldSize"] == 2
    assert found["lightning"].status["restarts"] == gallery.NO_RESTARTS
    assert "step=" not in "".join(found["wrong"].logs.values())
    with pytest.raises(CliError, match=r"`devices=1` and `num_nodes=5` .* does not match the world size \(1\)"):
        torchrun(kubectl, "wait", "wrong")
