"""Clocks of other computers that are wrong, and clocks that jump: the same happens as with right ones."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest

from world import Skews, World, counts, reasons, started

SKEWS = [
    Skews(*(timedelta(seconds=seconds) for seconds in (api_server, kubelets, hosts)))
    for api_server, kubelets, hosts in (
        (3600, 0, 0),
        (-3600, 0, 0),
        (0, 3600, 0),
        (0, -3600, 0),
        (0, 0, 3600),
        (0, 0, -3600),
        (10, -10, 10),
        (-10, 10, -10),
        (60, -60, 60),
        (-60, 60, -60),
        (3600, 3600, 3600),
        (-3600, -3600, -3600),
    )
]


@dataclass
class Told:
    """What a user sees, without times."""

    state: str
    summary: str
    restarts: dict[str, int]
    cause: str | None
    pods: dict[str, int]
    reasons: list[str]


def told(world: World) -> Told:
    failure: dict[str, Any] = world.status.get("lastFailure") or {}
    return Told(
        world.status["state"],
        world.status["membership"]["summary"],
        counts(world),
        failure.get("cause"),
        dict(world.cluster.most_pods),
        sorted(reasons(world)),
    )


async def goes_on(world: World, seconds: int) -> None:
    for _ in range(seconds):
        await world.reconcile()
        world.live()
        world.now += timedelta(seconds=1)


async def the_store_is_lost(world: World) -> None:
    world.delete("digits-rdzv")


async def agents_end_after_a_new_store_was_seen(world: World) -> None:
    """The Kubernetes node of the host loses power: no connection is closed, and the agents wait for an answer."""
    world.cut_off("digits-rdzv")
    world.live()
    world.delete("digits-rdzv")
    world.frozen |= {pod["metadata"]["uid"] for pod in world.nodes.values()}
    old = world.status["rendezvous"]["instance"]
    for _ in range(30):
        await goes_on(world, 1)
        if world.status["rendezvous"]["instance"] != old:
            break
    for pod in world.nodes.values():
        world.end(pod, 1)


async def a_node_is_lost_and_workers_fail(world: World) -> None:
    world.delete("digits-1")
    await world.reconcile()
    world.now += timedelta(seconds=1)
    world.fail_workers()


async def workers_fail_and_a_node_is_lost(world: World) -> None:
    world.fail_workers()
    await world.reconcile()
    world.now += timedelta(seconds=2)
    world.delete("digits-1")


async def workers_fail(world: World) -> None:
    world.fail_workers()


async def code_fails_on_two_nodes(world: World) -> None:
    world.end(world.pods["digits-0"], 3)
    await world.reconcile()
    world.now += timedelta(seconds=4)
    world.end(world.pods["digits-2"], 3)


async def code_fails_again_and_again(world: World) -> None:
    for _ in range(2):
        world.end(world.pods["digits-0"], 3)
        await goes_on(world, 30)


async def a_pod_is_slow_to_start(world: World) -> None:
    world.machines = 2
    world.delete("digits-2")
    await goes_on(world, 10)
    world.machines = 3


async def a_pod_does_not_end(world: World) -> None:
    world.stuck.add(world.pods["digits-1"]["metadata"]["uid"])
    world.cluster.delete_gracefully(world.pods["digits-1"])


FAULTS = {
    the_store_is_lost: {"infrastructure": 3},
    agents_end_after_a_new_store_was_seen: {"infrastructure": 3},
    a_node_is_lost_and_workers_fail: {"infrastructure": 1},
    workers_fail_and_a_node_is_lost: {"infrastructure": 1},
    workers_fail: {"code": 1},
    code_fails_on_two_nodes: {"code": 1},
    code_fails_again_and_again: {"code": 2},
    a_pod_is_slow_to_start: {"infrastructure": 1},
    a_pod_does_not_end: {"infrastructure": 1},
}
"""What happens, and the restarts that follow."""


async def outcome(fault: Any, skews: Skews | None = None) -> Told:
    world = await started(skews, maxRestarts=9)
    await fault(world)
    await goes_on(world, 20)
    await world.settle()
    return told(world)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_clocks_that_are_wrong_change_nothing(fault: Any) -> None:
    right = await outcome(fault)
    assert (right.state, right.restarts) == ("Running", FAULTS[fault])
    for skews in SKEWS:
        assert (skews, await outcome(fault, skews)) == (skews, right)


async def test_times_in_the_status_are_the_operators() -> None:
    world = await started(Skews(*(timedelta(hours=1) for _ in range(3))))
    world.fail_workers()
    await goes_on(world, 10)
    assert abs((world.now - datetime.fromisoformat(world.status["lastFailure"]["time"])).total_seconds()) <= 12
    await goes_on(world, 20)
    world.end(world.pods["digits-0"], 3)
    await goes_on(world, 5)
    assert abs((world.now - datetime.fromisoformat(world.status["lastFailure"]["time"])).total_seconds()) <= 7
