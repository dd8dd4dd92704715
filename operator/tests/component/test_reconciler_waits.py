"""The operator reads the events of pods that wait without saying why: few of them, and seldom."""

from datetime import timedelta
from typing import Any

import pytest

from builders import NOW
from memory_cluster import Stored
from torchrun_operator.cluster.port import ClusterError
from world import World

CREATING = {"name": "trainer", "state": {"waiting": {"reason": "ContainerCreating"}}}
NO_SECRET = 'MountVolume.SetUp failed for volume "creds" : secret "s3-credentials" not found'
SAID = (
    'FailedMount: volume "creds": secret "s3-credentials" not found; create the Secret s3-credentials in namespace team'
)
THREE_WAIT = f"pods digits-0, digits-1 and digits-2 cannot start: {SAID}"
OTHERS = "5 of 8 node pods, such as digits-3, are starting"


def create(pod: Stored) -> None:
    """Schedule the pod. Its kubelet waits for a volume."""
    pod["spec"]["nodeName"] = "m1"
    pod["status"] = {"phase": "Pending", "containerStatuses": [CREATING]}


def complain(world: World, pod: Stored) -> None:
    world.cluster.events.append(
        {
            "type": "Warning",
            "reason": "FailedMount",
            "message": NO_SECRET,
            "involvedObject": {"kind": "Pod", "uid": pod["metadata"]["uid"]},
            "firstTimestamp": "2026-01-31T12:00:01Z",
            "lastTimestamp": "2026-01-31T12:00:08Z",
        }
    )


async def waiting_world(nodes: int) -> World:
    """Return a job whose rendezvous pod runs, and whose node pods wait for a volume."""
    world = World(nnodes=f"2:{nodes}", replicas=nodes)
    for _ in range(4):  # the rendezvous pod, and then the nodes
        await world.reconcile()
        for name, pod in world.pods.items():
            if name in world.nodes:
                create(pod)
            elif pod["status"]["phase"] == "Pending":
                world.run(pod)
                world.live()
        world.now += timedelta(seconds=1)
    assert len(world.nodes) == nodes
    for pod in world.nodes.values():
        create(pod)
        complain(world, pod)
    world.now = NOW + timedelta(seconds=10)
    return world


async def follow(world: World, seconds: float) -> None:
    """Make passes when the operator wants them, for that long."""
    end = world.now + timedelta(seconds=seconds)
    while world.now < end:
        outcome = await world.reconcile()
        again = outcome.look_again_seconds if outcome is not None else 1.0
        world.now = min(end, world.now + timedelta(seconds=max(0.1, again or seconds)))


def reads(world: World) -> list[str]:
    return [words for words in world.cluster.log if words.startswith("events of")]


def uids(world: World, *names: str) -> set[str]:
    return {f"events of {world.pods[name]['metadata']['uid']}" for name in names}


async def test_a_volume_that_cannot_be_mounted_is_named_within_10_seconds() -> None:
    world = await waiting_world(2)
    await follow(world, 6)
    running = world.condition("Running")
    assert (running["reason"], running["message"]) == (
        "PodsWaiting",
        f"pods digits-0 and digits-1 cannot start: {SAID}",
    )


async def test_few_events_are_read_however_many_pods_wait() -> None:
    world = await waiting_world(8)
    await follow(world, 60)
    assert set(reads(world)) == uids(world, "digits-0", "digits-1", "digits-2")
    assert len(reads(world)) <= 3 * 7
    assert world.condition("Running")["message"] == f"{THREE_WAIT}; {OTHERS}"


async def test_pods_that_run_need_no_events() -> None:
    world = World(nnodes="2", replicas=2)
    await world.settle()
    assert reads(world) == []


@pytest.mark.parametrize("status", [403, 0], ids=["forbidden", "no answer"])
async def test_events_that_cannot_be_read_change_nothing_else(status: int) -> None:
    world = await waiting_world(2)

    async def refuse(_number: int, words: str, _done: bool) -> None:
        if words.startswith("events of"):
            raise ClusterError(status, "Forbidden", "no such right")

    world.cluster.fault = refuse
    await follow(world, 20)
    running: dict[str, Any] = world.condition("Running")
    assert running["reason"] == "WaitingForNodes"
    for pod in list(world.nodes.values()):
        world.run(pod)
    await world.settle()
    assert world.condition("Running")["reason"] == "Training"
