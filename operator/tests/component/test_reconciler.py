"""The life of a job, from the reconciler's first pass to the last."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from torchrun_operator.api.v1alpha1 import TorchrunJobStatus, job_of
from torchrun_operator.reconcile.reconciler import Outcome
from torchrun_rendezvous.protocol import Progress
from world import World, counts, reasons, started

NODES = ["digits-0", "digits-1", "digits-2"]


async def test_a_job_starts() -> None:
    world = World()
    assert await world.reconcile() == Outcome(look_again_seconds=2.0, rest_seconds=2.0)
    assert world.cluster.log == [
        "get digits",
        "list pods",
        "rules of team",
        "create digits-rdzv",
        "apply NetworkPolicy digits-rdzv",
        "apply NetworkPolicy digits-nodes",
        "apply ConfigMap digits-rdzv",
        "create digits-0",
        "create digits-1",
        "create digits-2",
    ]
    world.cluster.log.clear()
    assert await world.reconcile() == Outcome(look_again_seconds=3.0)
    assert world.cluster.log == ["get digits", "list pods", "status digits"]
    world.live()
    world.cluster.log.clear()
    await world.reconcile()
    assert [line for line in world.cluster.log if "Service" in line] == [
        "apply Service digits",
        "apply Service digits-rdzv",
    ]
    await world.settle()
    assert sorted(world.pods) == [*NODES, "digits-rdzv"]
    assert (world.status["state"], world.status["membership"]["summary"]) == ("Running", "3/2:4")
    assert [node["rank"] for node in world.status["nodes"]] == [0, 1, 2]
    assert reasons(world) == ["AllScheduled", "Training"]


async def test_a_job_that_ends_before_its_first_status() -> None:
    """The pods of a new job are created before the first status, which then reports what happened to them."""
    world = World(maxRestarts=0)
    await world.reconcile()
    world.live()
    world.end(world.pods["digits-1"], 3)
    world.restart_operator()
    await world.settle()
    assert (counts(world), world.status["state"]) == ({"code": 1}, "Failed")


async def test_a_quiet_job_costs_two_reads_a_pass() -> None:
    world = await started()
    world.cluster.log.clear()
    assert await world.reconcile() == Outcome()
    assert world.cluster.log == ["get digits", "list pods"]


async def test_owned_objects_are_applied_again_after_a_while_and_after_a_change() -> None:
    world = await started()
    world.cluster.log.clear()
    world.now += timedelta(seconds=400)
    await world.reconcile()
    assert len([entry for entry in world.cluster.log if entry.startswith("apply")]) == 5
    world.cluster.log.clear()
    world.cluster.edit(world.job, files=[{"path": "/workspace/a.py", "content": "1"}])
    await world.settle()
    assert "apply ConfigMap digits-files" in world.cluster.log


async def test_fewer_and_more_nodes() -> None:
    world = await started()
    world.cluster.edit(world.job, replicas=2)
    await world.settle()
    assert (world.indices(), world.status["membership"]["summary"]) == ([0, 1], "2/2:4")
    world.cluster.edit(world.job, replicas=4)
    await world.settle()
    assert (world.indices(), world.status["membership"]["summary"]) == ([0, 1, 2, 3], "4/2:4")
    assert counts(world) == {"resize": 2}


async def test_more_nodes_than_there_is_room_for() -> None:
    world = World(replicas=4)
    world.machines = 3
    await world.settle()
    assert (world.status["state"], world.status["membership"]["summary"]) == ("Running", "3/2:4")
    assert (world.condition("Scheduled")["status"], world.condition("Resizing")["reason"]) == ("False", "ShortOfNodes")
    assert "digits-3: is not scheduled yet" in world.condition("Resizing")["message"]
    world.machines = 4
    await world.settle()
    assert world.status["membership"]["summary"] == "4/2:4"


async def test_suspend_and_resume() -> None:
    world = await started()
    world.cluster.edit(world.job, suspend=True)
    await world.settle()
    assert (world.pods, world.status["state"], world.condition("Suspended")["reason"]) == ({}, "Suspended", "Suspended")
    world.cluster.edit(world.job, suspend=False)
    await world.settle()
    assert (sorted(world.nodes), world.status["state"], counts(world)) == (NODES, "Running", {})


async def test_a_deleted_or_terminating_job_is_not_changed() -> None:
    world = await started()
    world.job["metadata"]["deletionTimestamp"] = "2026-01-31T12:00:00Z"
    world.cluster.log.clear()
    assert await world.reconcile() == Outcome(gone=False)
    world.cluster.remove(world.job)
    assert await world.reconcile() == Outcome(gone=True)
    assert world.cluster.log == ["get digits", "get digits"]
    assert {kind for kind, _, _ in world.cluster.objects} == {"Node"}
    assert world.links.connected == {}


async def test_a_job_of_another_controller_is_left_alone() -> None:
    world = World(managedBy="kueue.x-k8s.io/multikueue")
    assert await world.reconcile() == Outcome()
    assert world.cluster.log == ["get digits"]
    ours = World(managedBy="torchrun.dev/operator")
    await ours.reconcile()
    assert "create digits-0" in ours.cluster.log


async def test_a_new_job_of_the_same_name_inherits_nothing() -> None:
    """The operator may have missed the deletion of the old one."""
    world = await started()
    world.fail_workers()
    old_host = dict(world.hosts)
    world.cluster.remove(world.job)
    world.job = world.cluster.add({**world.job, "metadata": {**world.job["metadata"], "uid": "second"}, "status": {}})
    await world.reconcile()
    status = TorchrunJobStatus.model_validate(world.status)
    assert old_host
    assert (status.membership.instance, status.membership.round, status.rendezvous.instance) == (None, 0, None)
    await world.settle()
    assert (world.status["state"], counts(world)) == ("Running", {})


async def test_progress_alone_is_written_now_and_then() -> None:
    world = await started()
    writes = []
    for step in range(30):
        for host in world.hosts.values():
            host.state = _with_step(host.state, step, world.now)
        world.cluster.log.clear()
        await world.reconcile()
        writes.append("status digits" in world.cluster.log)
        world.now += timedelta(seconds=1)
    assert 5 <= sum(writes) <= 7
    assert world.status["progress"]["step"] >= 24


def _with_step(state: Any, step: int, now: datetime) -> Any:
    return replace(state, progress=Progress(step=step, time=now))


async def test_a_restarted_operator_counts_nothing_twice() -> None:
    world = await started()
    world.delete("digits-1")
    world.fail_workers()
    await world.settle()
    before = counts(world)
    for _ in range(3):
        world.restart_operator()
        await world.settle()
    assert (counts(world), before, world.status["state"]) == (before, {"infrastructure": 1}, "Running")


NEWER = {"spec": {"containers": [{"name": "trainer", "image": "train:2", "command": ["torchrun"]}]}}


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("spec", [{"template": NEWER}, {"nnodes": "1:4"}, {"rendezvous": {"port": 30000}}])
async def test_no_pod_of_an_earlier_spec_survives_a_suspension_that_no_pass_has_seen(
    spec: dict[str, Any], restarted: bool
) -> None:
    world = await started()
    before = {pod["metadata"]["uid"] for pod in world.pods.values()}
    world.cluster.edit(world.job, suspend=True, **spec)
    world.cluster.edit(world.job, suspend=False)
    if restarted:
        world.restart_operator()
    await world.reconcile()
    suspended = world.condition("Suspended")
    assert (suspended["status"], suspended["reason"], suspended["message"]) == (
        "True",
        "Suspending",
        "the spec has changed while the job was suspended; the pods of the earlier spec are being deleted",
    )
    await world.settle()
    assert (world.status["state"], world.indices(), counts(world)) == ("Running", [0, 1, 2], {})
    assert before.isdisjoint(pod["metadata"]["uid"] for pod in world.pods.values())
    digests = {pod["metadata"]["annotations"]["torchrun.dev/spec-digest"] for pod in world.pods.values()}
    assert digests == {job_of(world.job).spec.frozen_digest}


async def test_a_suspension_that_changes_nothing_and_that_no_pass_has_seen_ends_no_pod() -> None:
    world = await started()
    before = {pod["metadata"]["uid"] for pod in world.pods.values()}
    for suspend in (True, False):
        world.cluster.edit(world.job, suspend=suspend)
    await world.settle()
    assert {pod["metadata"]["uid"] for pod in world.pods.values()} == before


async def test_pods_of_an_older_operator_continue() -> None:
    world = await started()
    before = {pod["metadata"]["uid"] for pod in world.pods.values()}
    for pod in world.pods.values():
        del pod["metadata"]["annotations"]["torchrun.dev/spec-digest"]
    world.restart_operator()
    await world.settle()
    assert {pod["metadata"]["uid"] for pod in world.pods.values()} == before
