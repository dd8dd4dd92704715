"""Starts that fail: one start is one failure, however many nodes fail in it, and each start waits longer."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from memory_cluster import Stored
from world import World, counts


async def starts(world: World) -> None:
    """Create the pods of the job, and let them run."""
    for _ in range(3):
        await world.reconcile()
        world.live()


@pytest.mark.parametrize("apart", [0, 5, 12, 300], ids=lambda seconds: f"{seconds} s apart")
@pytest.mark.parametrize("code", [None, 7], ids=["an init container", "the trainer"])
async def test_a_start_that_fails_on_each_node_is_one_failure(code: int | None, apart: int) -> None:
    world = World(nnodes=3, replicas=3, maxRestarts=1)
    world.mute = True
    for start in (1, 2):
        await starts(world)
        for index in range(3):
            pod = world.nodes[f"digits-{index}"]
            world.end(pod, code) if code else world.reject(pod)
            await world.reconcile()
            assert counts(world) == {"code": start}
            world.now += timedelta(seconds=apart)
        world.now += timedelta(seconds=400)
        await world.reconcile()
    assert world.status["state"] == "Failed"


def killed(world: World, pod: Stored) -> None:
    world.end(pod, 137)


def rejected(world: World, pod: Stored) -> None:
    world.reject(pod, "OutOfcpu", "Pod was rejected: Node didn't have enough resource: cpu")


def deleted(world: World, pod: Stored) -> None:
    world.cluster.remove(pod)


def evicted(world: World, pod: Stored) -> None:
    world.end(pod, 137)
    pod["status"] |= {"reason": "Evicted", "message": "The node was low on resource: memory."}


ENDS = {"killed": killed, "rejected": rejected, "deleted": deleted, "evicted": evicted}
WAITS = [0, 5, 10, 20, 40, 80, 160, 300, 300]
"""Seconds between the ends of pods and the creations of their replacements."""


@pytest.mark.parametrize(
    ("end", "restarts"),
    [*((end, False) for end in ENDS.values()), (killed, True)],
    ids=[*ENDS, "killed, and the operator restarts"],
)
async def test_what_ends_a_pod_soon_after_each_start_makes_it_wait_longer(
    end: Callable[[World, Stored], None], restarts: bool
) -> None:
    world = World(nnodes="1:2", replicas=2)
    await world.settle()
    waits = []
    for _ in range(len(WAITS)):
        pod = world.nodes["digits-1"]
        world.run(pod)
        await world.reconcile()
        end(world, pod)
        if restarts:
            world.restart_operator()
        ended = world.now
        while world.nodes.get("digits-1", pod)["metadata"]["uid"] == pod["metadata"]["uid"]:
            outcome = await world.reconcile()
            assert outcome is not None
            world.now += timedelta(seconds=outcome.look_again_seconds or 0)
        waits.append((world.now - ended).total_seconds())
    assert [round(wait) for wait in waits] == WAITS
    assert counts(world).keys() <= {"infrastructure", "preemption"}


async def test_a_minute_of_running_ends_the_back_off() -> None:
    world = World(nnodes="1:2", replicas=2)
    await world.settle()
    for failures in (1, 2, 3):
        world.end(world.nodes["digits-1"], 137)
        await world.reconcile()
        assert world.status["nodes"][1]["backOff"]["failures"] == failures
        world.now += timedelta(seconds=20)
        await starts(world)
    await world.settle()  # for longer than any timer
    assert "backOff" not in world.status["nodes"][1]
    world.end(world.nodes["digits-1"], 137)
    await world.reconcile()
    assert world.status["nodes"][1]["backOff"]["failures"] == 1


async def test_the_last_line_of_an_init_container_is_kept_when_its_pod_goes() -> None:
    world = World(nnodes=2, replicas=2, maxRestarts=1)
    world.mute = True
    for start in (1, 2):
        await starts(world)
        for name, pod in world.nodes.items():
            time = world.now.isoformat()
            world.cluster.logs[name] = f"{time} fetching\n{time} fetch: bucket s3://data-{start} does not exist\n"
            world.fail_init(pod, "fetch-data", 7)
        await world.reconcile()
        failure = world.status["lastFailure"]
        assert (failure["container"], failure["exitCode"], failure["message"], failure["traceback"]) == (
            "fetch-data",
            7,
            f"fetch: bucket s3://data-{start} does not exist",
            f"fetching\nfetch: bucket s3://data-{start} does not exist",
        )
        world.now += timedelta(seconds=400)
        await world.reconcile()
    lost = [event["message"] for event in world.cluster.events if event["reason"] == "NodeLost"]
    assert lost[-1] == (
        "Node 1 (pod digits-1) failed: container fetch-data exited with code 7 (Error): "
        "fetch: bucket s3://data-1 does not exist; cause: code"
    )
    assert world.condition("Failed")["message"] == (
        "container fetch-data of pod digits-0 failed first: fetch: bucket s3://data-2 does not exist (exit code 7); "
        "the code has failed 2 times and spec.maxRestarts is 1; see kubectl -n team logs digits-0 -c fetch-data"
    )
