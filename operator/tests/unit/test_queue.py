"""The queue: one turn per key at a time, merging, spacing, order, and backoff. In virtual time."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest

from torchrun_operator.reconcile.queue import QueueClosed, WorkQueue
from virtual_time import now, run_virtually

Queue = WorkQueue[str]
Script = Callable[[Queue], Awaitable[None]]


def in_virtual_time(script: Script) -> None:
    """Run the script with a new queue. Turns of a key are 1 s apart, and 10 s from the fourth in a row on."""

    async def main() -> None:
        await script(WorkQueue(now, spacing_seconds=1.0, sustained_seconds=10.0, burst=3))

    run_virtually(main())


async def take(queue: Queue) -> tuple[str, float]:
    """Return the next turn's key and the time, to a tenth of a second."""
    return await queue.get(), round(now(), 1)


async def wakes_are_merged(queue: Queue) -> None:
    for _ in range(100):
        queue.add("a")
    queue.add("b")
    assert [await queue.get(), await queue.get()] == ["a", "b"]
    assert queue.depth == 0


async def the_earliest_comes_first(queue: Queue) -> None:
    queue.add("late", after=5)
    queue.add("soon", after=2)
    queue.add("now")
    assert [await take(queue) for _ in range(3)] == [("now", 0), ("soon", 2), ("late", 5)]


async def the_earliest_wish_stands(queue: Queue) -> None:
    queue.add("a", after=5)
    queue.add("a", after=2)
    queue.add("a", after=9)
    assert await take(queue) == ("a", 2)
    queue.done("a")
    queue.add("b", after=8)
    assert await take(queue) == ("b", 10)  # the requests for 5 and 9 were merged with the one for 2


async def one_worker_per_key(queue: Queue) -> None:
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    queue.add("b", after=50)
    assert await take(queue) == ("b", 50)
    queue.done("a")
    assert await take(queue) == ("a", 50)


async def a_wake_during_the_turn_is_not_lost_and_is_spaced(queue: Queue) -> None:
    queue.add("a")
    assert await take(queue) == ("a", 0)
    queue.add("a")
    queue.done("a", after=300)
    assert await take(queue) == ("a", 1)


async def done_asks_for_the_next(queue: Queue) -> None:
    queue.add("a")
    await queue.get()
    queue.done("a", after=300)
    assert await take(queue) == ("a", 300)


async def many_wakes_in_a_row_are_spread(queue: Queue) -> None:
    times = []
    for _ in range(6):
        queue.add("a")
        times.append((await take(queue))[1])
        queue.done("a")
    assert times[:3] == [0, 1, 2]
    assert times[5] - times[4] == pytest.approx(10, abs=0.1)
    queue.add("a", after=1000)
    quiet = (await take(queue))[1]
    queue.done("a")
    queue.add("a")
    assert (await take(queue))[1] == quiet + 1  # its credit has recovered


async def failures_wait_longer_and_longer(queue: Queue) -> None:
    delays, times = [], []
    queue.add("a")
    for _ in range(10):
        times.append((await take(queue))[1])
        delays.append(queue.failed("a"))
    assert delays == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert [round(b - a, 1) for a, b in itertools.pairwise(times)] == delays[:-1]


async def success_ends_the_backoff(queue: Queue) -> None:
    queue.add("a")
    for _ in range(5):
        await queue.get()
        queue.failed("a")
    await queue.get()
    queue.done("a", after=100)
    await queue.get()
    assert queue.failed("a") == 0.5


async def wakes_do_not_shorten_the_backoff(queue: Queue) -> None:
    queue.add("a")
    for _ in range(4):
        await queue.get()
        queue.failed("a")
    await queue.get()
    start = now()
    queue.add("a")
    assert queue.failed("a") == 8
    queue.add("a")
    assert await take(queue) == ("a", round(start + 8, 1))


async def a_forgotten_key_can_come_back(queue: Queue) -> None:
    queue.add("a")
    await queue.get()
    queue.forget("a")
    queue.add("b", after=20)
    assert await take(queue) == ("b", 20)
    queue.add("a")
    assert await take(queue) == ("a", 20)


async def a_forgotten_key_that_was_woken_gets_its_turn(queue: Queue) -> None:
    queue.add("a")
    await queue.get()
    queue.add("a")
    queue.forget("a")
    assert await take(queue) == ("a", 1)


async def close_ends_all_who_wait(queue: Queue) -> None:
    queue.add("a", after=100)
    waiting = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(1)
    queue.close()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [QueueClosed] * 3
    with pytest.raises(QueueClosed):
        await queue.get()


async def a_cancelled_worker_ends_whenever_it_is_woken(queue: Queue) -> None:
    """asyncio.wait_for() of Python 3.11 loses a cancellation in the moment between the wake-up and its answer."""
    for ticks in range(6):
        waiting = asyncio.create_task(queue.get())
        await asyncio.sleep(1)
        queue.add(f"due after {ticks}", after=1000 - ticks)
        for _ in range(ticks):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting], timeout=10)
        assert waiting.cancelled(), f"cancelled {ticks} ticks after the wake-up"


async def turns_under_way_can_end_after_close(queue: Queue) -> None:
    queue.add("a")
    await queue.get()
    queue.close()
    queue.done("a", after=5)
    queue.add("b")


async def workers_share_the_keys(queue: Queue) -> None:
    """Each of many keys gets its turns, one at a time, with slow workers."""
    busy: set[str] = set()
    turns: dict[str, int] = {}

    async def worker() -> None:
        while True:
            try:
                key = await queue.get()
            except QueueClosed:
                return
            assert key not in busy
            busy.add(key)
            await asyncio.sleep(3)
            busy.remove(key)
            turns[key] = turns.get(key, 0) + 1
            queue.done(key)

    workers = [asyncio.create_task(worker()) for _ in range(4)]
    for second in range(60):
        for key in "abcdefgh":
            queue.add(key, after=second % 5)
        await asyncio.sleep(1)
    await asyncio.sleep(100)
    queue.close()
    await asyncio.gather(*workers)
    assert set(turns) == set("abcdefgh")
    assert min(turns.values()) >= 5


async def a_group_has_only_its_turns(queue: Queue) -> None:
    """Slow turns of one group do not delay the keys of another."""
    queue.group_of, queue.turns_per_group = (lambda key: key[0]), 2
    for key in ("x1", "x2", "x3", "x4", "y1"):
        queue.add(key)
    assert [await take(queue) for _ in range(3)] == [("x1", 0), ("x2", 0), ("y1", 0)]
    queue.add("x3")  # it is held already
    queue.add("y2", after=7)
    assert (queue.depth, await take(queue)) == (2, ("y2", 7))
    queue.done("x2", after=3)
    assert await take(queue) == ("x3", 7)
    queue.forget("x1")
    queue.failed("x3")
    assert [await take(queue), await take(queue)] == [("x4", 7), ("x3", 7.5)]


async def depth_and_oldest_wait_tell_of_overdue_keys(queue: Queue) -> None:
    assert (queue.depth, queue.oldest_wait_seconds) == (0, 0.0)
    queue.add("a")
    queue.add("b", after=3)
    await asyncio.sleep(10)
    assert (queue.depth, queue.oldest_wait_seconds) == (2, 10.0)
    assert await queue.get() == "a"
    assert (queue.depth, queue.oldest_wait_seconds) == (1, 7.0)


SCRIPTS: tuple[Script, ...] = (
    wakes_are_merged,
    the_earliest_comes_first,
    the_earliest_wish_stands,
    one_worker_per_key,
    a_wake_during_the_turn_is_not_lost_and_is_spaced,
    done_asks_for_the_next,
    many_wakes_in_a_row_are_spread,
    failures_wait_longer_and_longer,
    success_ends_the_backoff,
    wakes_do_not_shorten_the_backoff,
    a_forgotten_key_can_come_back,
    a_forgotten_key_that_was_woken_gets_its_turn,
    close_ends_all_who_wait,
    a_cancelled_worker_ends_whenever_it_is_woken,
    turns_under_way_can_end_after_close,
    workers_share_the_keys,
    a_group_has_only_its_turns,
    depth_and_oldest_wait_tell_of_overdue_keys,
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_queue(script: Script) -> None:
    in_virtual_time(script)
