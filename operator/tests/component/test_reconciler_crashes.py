"""The operator ends, or the API server fails, at each request of a start and of recoveries: the job recovers.

Allowed, because it cannot be avoided: an event may be missing or appear twice. The metrics of an operator that ends
after it wrote a status lack what that status counted.
"""

from collections.abc import Callable

import pytest

from crashes import cancelled_at, fails_at, undisturbed
from world import World

Disturb = Callable[[World], None]


def start(_world: World) -> None:
    """Change nothing: the job is new."""


def node_deleted(world: World) -> None:
    world.delete("digits-1")


def node_failed(world: World) -> None:
    world.end(world.pods["digits-1"], 3)


def node_killed(world: World) -> None:
    world.end(world.pods["digits-1"], 137)


def rendezvous_lost(world: World) -> None:
    world.delete("digits-rdzv")


def workers_failed(world: World) -> None:
    world.fail_workers()


def fewer(world: World) -> None:
    world.cluster.edit(world.job, replicas=2)


def lost_at_the_end(world: World) -> None:
    world.succeed()
    world.end(world.pods["digits-1"], 137)


def success(world: World) -> None:
    world.succeed()


def hang(world: World) -> None:
    world.hang()


def agent_hangs(world: World) -> None:
    world.hang("digits-1")


def hangs_too_often(world: World) -> None:
    world.job["spec"]["maxRestarts"] = 0
    world.hang()


def too_often(world: World) -> None:
    world.job["spec"]["maxRestarts"] = 0
    world.end(world.pods["digits-1"], 3)


def suspend(world: World) -> None:
    world.cluster.edit(world.job, suspend=True)


# name: (what happens, final state, final restarts, final indices of the pods)
LIVES: dict[str, tuple[Disturb, str, dict[str, int], list[int]]] = {
    "start": (start, "Running", {}, [0, 1, 2]),
    "a node is deleted": (node_deleted, "Running", {"infrastructure": 1}, [0, 1, 2]),
    "a node's code fails": (node_failed, "Running", {"code": 1}, [0, 1, 2]),
    "a node is killed": (node_killed, "Running", {"infrastructure": 1}, [0, 1, 2]),
    "the rendezvous is lost": (rendezvous_lost, "Running", {"infrastructure": 3}, [0, 1, 2]),
    "workers fail": (workers_failed, "Running", {"code": 1}, [0, 1, 2]),
    "fewer are wanted": (fewer, "Running", {"resize": 1}, [0, 1]),
    "a node is lost at the end": (lost_at_the_end, "Running", {"infrastructure": 1}, [0, 1, 2]),
    "success": (success, "Complete", {}, [0, 1, 2]),
    "workers hang": (hang, "Running", {"code": 1}, [0, 1, 2]),
    "workers hang and an agent with them": (
        agent_hangs,
        "Running",
        {"code": 1, "infrastructure": 1},
        [0, 1, 2],
    ),
    "workers hang too often": (hangs_too_often, "Failed", {"code": 1}, [0, 1, 2]),
    "the code fails too often": (too_often, "Failed", {"code": 1}, [0, 1, 2]),
    "suspend": (suspend, "Suspended", {}, []),
}


async def world_before(disturb: Disturb) -> World:
    """Return a world in which that has just happened. Requests count from here."""
    world = World()
    if disturb is not start:
        await world.settle()
        disturb(world)
    world.cluster.log.clear()
    world.cluster.most_pods.clear()
    return world


@pytest.mark.parametrize("after", [False, True], ids=["before its effect", "after its effect"])
@pytest.mark.parametrize("death", [False, True], ids=["the request fails", "the operator dies"])
@pytest.mark.parametrize(("disturb", "state", "restarts", "indices"), LIVES.values(), ids=LIVES)
async def test_any_request_may_be_the_last(
    disturb: Disturb, state: str, restarts: dict[str, int], indices: list[int], death: bool, after: bool
) -> None:
    last, created = await undisturbed(await world_before(disturb))
    for number in range(1, last + 3):
        world = await world_before(disturb)
        await (cancelled_at if death else fails_at)(world, number, after=after)
        if death:
            world.restart_operator()
            await world.settle()
        counted = {cause: count for cause, count in world.status["restarts"].items() if count}
        assert (world.status["state"], counted, world.indices()) == (state, restarts, indices), world.cluster.log
        assert world.cluster.most_pods == created, world.cluster.log
        assert len(world.ended) == len(set(world.ended)) <= 1, "a hang is ended once"
