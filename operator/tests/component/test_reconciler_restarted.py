"""The knowledge of a restarted operator, and the order: actions before events."""

import asyncio
from datetime import timedelta

import pytest

from builders import COLD
from torchrun_operator.cluster.port import ClusterError
from world import KEY, World, reasons, started

QUOTA = "exceeded quota: team"


def refusing(kind: str) -> World:
    """Return a world whose API server rejects objects of that kind."""
    world = World()
    world.cluster.refuse = lambda manifest: QUOTA if manifest["kind"] == kind else ""
    return world


@pytest.mark.parametrize("kind", ["Pod", "ConfigMap"])
async def test_a_refused_job_stays_refused_after_a_restart_of_the_operator(kind: str) -> None:
    world = refusing(kind)
    for _ in range(3):
        await world.reconcile()
    before = world.condition("Accepted")
    assert (before["status"], before["message"], world.status["state"]) == ("False", QUOTA, "Invalid")
    world.cluster.events.clear()
    for _ in range(3):
        world.restart_operator()
        for _ in range(3):
            await world.reconcile()
            assert (world.condition("Accepted"), world.status["state"]) == (before, "Invalid")
    assert reasons(world) == []


async def test_a_restarted_operator_retries_a_refusal() -> None:
    world = refusing("Pod")
    for _ in range(3):
        await world.reconcile()
    world.restart_operator()
    world.cluster.refuse = lambda _manifest: ""
    await world.settle()
    assert (world.status["state"], world.condition("Accepted")["reason"]) == ("Running", "Valid")
    assert "refusal" not in world.status


async def test_a_job_whose_name_is_taken_starts_no_pod_after_a_restart_of_the_operator() -> None:
    world = World()
    theirs = {"kind": "Service", "metadata": {"namespace": "team", "name": "digits"}, "spec": {"theirs": True}}
    stored = world.cluster.add(theirs)
    await world.settle()
    made = dict(world.cluster.most_pods)
    world.cluster.log.clear()
    for _ in range(3):
        world.restart_operator()
        await world.settle()
    assert (world.pods, world.cluster.most_pods) == ({}, made)
    assert not [entry for entry in world.cluster.log if entry.startswith(("create", "delete"))]
    world.cluster.remove(stored)
    world.restart_operator()
    await world.settle()
    assert world.status["state"] == "Running"


async def test_pods_of_a_lost_host_are_deleted_before_the_events_are_recorded() -> None:
    world = await started(nnodes="2:300", replicas=300, **COLD)
    machine = world.cut_off("digits-rdzv")
    for _ in range(5):  # the operator tries in vain to reach it
        world.live()
        await world.reconcile()
        world.now += timedelta(seconds=10)
    world.give_up(machine)
    world.cluster.events.clear()
    world.cluster.log.clear()
    await world.reconcile()
    log = world.cluster.log
    deletions = [position for position, entry in enumerate(log) if entry.startswith("delete")]
    events = [position for position, entry in enumerate(log) if entry.startswith("event")]
    assert (len(deletions), reasons(world)) == (301, ["RestartingAllNodes"])
    assert max(deletions) < min(events)
    why = "all nodes start again from the last snapshot, because the rendezvous host is lost: Kubernetes "
    assert world.cluster.events[0]["message"].startswith(why)


async def test_events_are_recorded_even_if_an_action_fails() -> None:
    world = await started()
    world.delete("digits-1")
    world.cluster.events.clear()

    async def fault(_number: int, what: str, _done: bool) -> None:
        if what == "create digits-1":
            raise ClusterError(500, "InternalError", "timeout")

    world.cluster.fault = fault
    with pytest.raises(ClusterError):
        await world.reconciler.reconcile(KEY)
    await world.reconciler.recorder.idle()
    assert reasons(world) == ["NodeLost"]


async def test_an_operator_that_stops_drops_events_that_it_cannot_record() -> None:
    world = await started()
    world.delete("digits-1")
    never = asyncio.Event()

    async def fault(_number: int, what: str, _done: bool) -> None:
        if what.startswith("event"):
            await never.wait()

    world.cluster.fault = fault
    await world.reconciler.reconcile(KEY)
    world.cluster.events.clear()
    await world.reconciler.recorder.aclose(0.01)
    await world.reconciler.recorder.idle()
    assert reasons(world) == []
