"""Ends the operator, or fails a request, at any request of a world."""

import asyncio
from typing import Any

from torchrun_operator.cluster.port import ClusterError
from world import World

_READS = ("get ", "list ")


async def undisturbed(world: World) -> tuple[int, dict[str, int]]:
    """Settle without faults. Return the number of the last write, and the created pods."""
    await world.settle()
    last = max(number for number, what in enumerate(world.cluster.log, start=1) if not what.startswith(_READS))
    return last, world.cluster.most_pods


async def cancelled_at(world: World, number: int, *, after: bool) -> bool:
    """Reconcile until request `number`, and end the operator there. Return whether there was such a request."""
    task: asyncio.Task[Any] | None = None
    hit = False

    async def fault(count: int, _what: str, done: bool) -> None:
        nonlocal hit
        if count == number and done is after and not hit:
            hit = True
            assert task is not None
            task.cancel()
            await asyncio.Event().wait()

    world.cluster.fault = fault
    task = asyncio.create_task(world.settle())
    await asyncio.wait([task])
    world.cluster.fault = None
    if not task.cancelled():
        task.result()
    return hit


async def fails_at(world: World, number: int, *, after: bool) -> bool:
    """Settle while request `number` fails, before or after its effect. Return whether there was such a request."""
    hit = False

    async def fault(count: int, what: str, done: bool) -> None:
        nonlocal hit
        if count == number and done is after and not hit:
            hit = True
            raise ClusterError(0, "TimeoutError", what)

    world.cluster.fault = fault
    await world.settle()
    world.cluster.fault = None
    return hit
