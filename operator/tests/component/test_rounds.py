"""The number of rounds that one change costs, or several together, with the decisions of the real rendezvous host."""

from collections.abc import Awaitable, Callable

import pytest

from rounds import RoundsWorld

Change = Callable[[RoundsWorld], Awaitable[None]]
_LONG = 60.0


async def training(replicas: int, **spec: object) -> RoundsWorld:
    """Return a world whose job trains in its first round."""
    world = RoundsWorld(replicas=replicas, **spec)
    await world.pass_time(20)
    assert (world.rounds, len(world.trains), world.status["state"]) == (1, replicas, "Running")
    return world


def scale(replicas: int) -> Change:
    async def change(world: RoundsWorld) -> None:
        world.cluster.edit(world.job, replicas=replicas)

    return change


def kill(name: str) -> Change:
    async def change(world: RoundsWorld) -> None:
        world.delete(name)

    return change


def drain(*names: str) -> Change:
    async def change(world: RoundsWorld) -> None:
        for name in names:
            world.pods[name]["status"]["conditions"] = [
                {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
            ]
            world.cluster.delete_gracefully(world.pods[name])

    return change


def crash(name: str) -> Change:
    async def change(world: RoundsWorld) -> None:
        world.end(world.pods[name], 137)

    return change


def no_room(*names: str) -> Change:
    async def change(world: RoundsWorld) -> None:
        world.unplaced = set(names)

    return change


def wait(seconds: float) -> Change:
    async def change(world: RoundsWorld) -> None:
        await world.pass_time(seconds)

    return change


CASES: dict[str, tuple[int, tuple[Change, ...], int, int, dict[str, int]]] = {
    # name: (initial nodes, what happens, rounds that it costs, final nodes, restarts)
    "nothing": (3, (), 0, 3, {}),
    "a node is killed": (3, (kill("digits-0"),), 1, 3, {"infrastructure": 1}),
    "a node crashes": (3, (crash("digits-1"),), 1, 3, {"infrastructure": 1}),
    "a node is drained": (3, (drain("digits-1"),), 1, 3, {"preemption": 1}),
    "two nodes are drained": (4, (drain("digits-1", "digits-2"),), 1, 4, {"preemption": 2}),
    "two nodes are drained, one after the other": (
        4,
        (drain("digits-1"), wait(1.2), drain("digits-2")),
        1,
        4,
        {"preemption": 2},
    ),
    "a node is killed, then another": (
        4,
        (kill("digits-1"), wait(0.7), kill("digits-0")),
        1,
        4,
        {"infrastructure": 2},
    ),
    "fewer nodes": (4, (scale(2),), 1, 2, {"resize": 1}),
    "fewer nodes, and again": (4, (scale(3), wait(0.5), scale(2)), 1, 2, {"resize": 2}),
    "more nodes": (2, (scale(4),), 1, 4, {"resize": 1}),
    "more nodes, and again": (2, (scale(3), wait(1), scale(4)), 1, 4, {"resize": 2}),
    "more nodes, and back before they came": (3, (scale(4), wait(2), scale(3)), 0, 3, {"resize": 2}),
    "fewer nodes while one is killed": (
        4,
        (scale(3), kill("digits-1")),
        1,
        3,
        {"resize": 1, "infrastructure": 1},
    ),
    "more nodes while one is killed": (
        3,
        (scale(4), kill("digits-1")),
        1,
        4,
        {"resize": 1, "infrastructure": 1},
    ),
    "the one that leaves is killed": (3, (scale(2), kill("digits-2")), 1, 2, {"resize": 1}),
    "drained and scaled down": (
        4,
        (drain("digits-0"), wait(0.4), scale(3)),
        1,
        3,
        {"preemption": 1, "resize": 1},
    ),
    "more nodes than there is room for": (3, (no_room("digits-3"), scale(4), wait(_LONG)), 0, 3, {"resize": 1}),
    "and then there is room": (
        3,
        (no_room("digits-3"), scale(4), wait(_LONG), no_room()),
        1,
        4,
        {"resize": 1},
    ),
    "no room for a replacement": (
        4,
        (no_room("digits-1"), kill("digits-1"), wait(_LONG)),
        1,
        3,
        {"infrastructure": 1},
    ),
    "no room for a replacement, and more are wanted": (
        3,
        (no_room("digits-1"), kill("digits-1"), wait(_LONG), scale(4)),
        2,  # without the lost one, and with the new one
        3,
        {"infrastructure": 1, "resize": 1},
    ),
    "no room for a replacement, and fewer are wanted": (
        4,
        (no_room("digits-3"), kill("digits-3"), wait(_LONG), scale(3)),
        1,  # the wanted nodes already train
        3,
        {"infrastructure": 1, "resize": 1},
    ),
}


@pytest.mark.parametrize(
    ("first", "changes", "rounds", "nodes", "restarts"), CASES.values(), ids=[name.replace(" ", "-") for name in CASES]
)
async def test_what_a_change_costs(
    first: int, changes: tuple[Change, ...], rounds: int, nodes: int, restarts: dict[str, int]
) -> None:
    world = await training(first)
    for change in changes:
        await change(world)
    await world.pass_time(_LONG)
    assert len(world.trains) == nodes
    assert world.rounds - 1 == rounds
    assert world.status["state"] == "Running"
    assert {cause: count for cause, count in world.status["restarts"].items() if count} == restarts
