"""Starts that fail: one start is one failure, however many nodes fail in it, and each start waits longer."""

from datetime import timedelta

import pytest

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
