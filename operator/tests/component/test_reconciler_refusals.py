"""Taken names, invalid specs, and requests that the API server rejects or that fail."""

from datetime import timedelta
from typing import Any

import pytest

from builders import NOW
from torchrun_operator.cluster.port import ClusterError
from torchrun_operator.reconcile.memory import Attempt
from world import KEY, World, counts, started

NODES = ["digits-0", "digits-1", "digits-2"]


async def test_an_object_of_another_owner_with_the_name_is_not_changed() -> None:
    world = World()
    theirs = world.cluster.add(
        {"kind": "Service", "metadata": {"namespace": "team", "name": "digits"}, "spec": {"theirs": True}}
    )
    await world.settle()
    accepted = world.condition("Accepted")
    assert (accepted["status"], world.status["state"], world.pods) == ("False", "Invalid", {})
    assert "digits exists and belongs to another owner" in accepted["message"]
    assert theirs["spec"] == {"theirs": True}
    world.cluster.remove(theirs)
    await world.settle()
    assert world.status["state"] == "Running"


async def test_a_pod_of_another_owner_with_the_name_of_a_node() -> None:
    world = World()
    theirs = world.cluster.add(
        {
            "kind": "Pod",
            "metadata": {"namespace": "team", "name": "digits-1", "labels": {"torchrun.dev/job-name": "digits"}},
            "spec": {},
            "status": {"phase": "Pending"},
        }
    )
    await world.settle()
    assert world.condition("Accepted")["reason"] == "NameTaken"
    assert world.pods["digits-1"] is theirs
    world.cluster.remove(theirs)
    await world.settle()
    assert world.status["state"] == "Running"


async def test_a_refusal_is_reported_and_retried_with_growing_delays() -> None:
    world = World()
    world.cluster.refuse = lambda manifest: "exceeded quota" if manifest["kind"] == "Pod" else ""
    delays = []
    for _ in range(10):
        outcome = await world.reconcile()
        assert outcome is not None
        assert outcome.look_again_seconds is not None
        delays.append(outcome.look_again_seconds)
        world.now += timedelta(seconds=outcome.look_again_seconds)
    assert delays == sorted(delays)
    assert delays[-1] == 15
    accepted = world.condition("Accepted")
    assert (accepted["reason"], accepted["message"]) == ("RefusedByCluster", "exceeded quota")
    world.now -= timedelta(seconds=5)
    world.cluster.log.clear()
    await world.reconcile()
    assert world.cluster.log == ["get digits", "list pods"]
    world.cluster.refuse = lambda _manifest: ""
    await world.settle()
    assert (world.status["state"], world.condition("Accepted")["reason"]) == ("Running", "Valid")


def test_what_is_refused_for_days_is_still_tried_again() -> None:
    attempt = Attempt(NOW, generation=1, refusal="exceeded quota", times=100_000)
    assert attempt.retry_seconds(1, NOW) == 15


async def test_a_corrected_spec_is_tried_at_once() -> None:
    world = World()
    world.cluster.refuse = lambda manifest: "no such class" if manifest["kind"] == "Pod" else ""
    await world.reconcile()
    world.cluster.refuse = lambda _manifest: ""
    world.cluster.edit(world.job, maxRestarts=5)
    await world.reconcile()
    assert sorted(world.nodes) == NODES


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"nnodes": "4:2"}, "spec.nnodes: MIN is greater than MAX"),
        ({"replicas": 9}, "spec.replicas"),
        ({"nodes": 3}, "spec.nodes: unknown field"),
    ],
)
async def test_an_invalid_job_is_reported_and_its_pods_continue(spec: dict[str, Any], words: str) -> None:
    world = await started()
    correct = dict(world.job["spec"])
    world.cluster.edit(world.job, **spec)
    await world.settle()
    accepted = world.condition("Accepted")
    assert (accepted["status"], accepted["reason"], world.status["state"]) == ("False", "InvalidSpec", "Invalid")
    assert words in accepted["message"]
    assert sorted(world.pods) == [*NODES, "digits-rdzv"]
    world.job["spec"] = {}
    world.cluster.edit(world.job, **correct)
    await world.settle()
    assert (world.status["state"], counts(world)) == ("Running", {})


async def test_events_that_cannot_be_recorded_hold_nothing_up() -> None:
    world = World()

    async def fault(_number: int, what: str, _done: bool) -> None:
        if what.startswith("event"):
            raise ClusterError(500, "InternalError", "etcd is slow")

    world.cluster.fault = fault
    await world.settle()
    assert (world.status["state"], world.cluster.events) == ("Running", [])


async def test_one_pod_that_cannot_be_made_holds_up_no_other() -> None:
    world = World()

    async def fault(_number: int, what: str, _done: bool) -> None:
        if what == "create digits-1":
            raise ClusterError(500, "InternalError", "timeout")

    world.cluster.fault = fault
    with pytest.raises(ClusterError):
        await world.reconciler.reconcile(KEY)
    assert sorted(world.pods) == ["digits-0", "digits-2", "digits-rdzv"]
