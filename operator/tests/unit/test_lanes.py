"""Lanes: each name has a limit of its own. In virtual time."""

import asyncio

from torchrun_operator.lanes import Lanes
from virtual_time import now, run_virtually


def test_names_do_not_wait_for_each_other_and_take_no_memory_later() -> None:
    async def main() -> None:
        lanes, ends = Lanes(2), []

        async def use(name: str, seconds: float) -> None:
            async with lanes.of(name):
                await asyncio.sleep(seconds)
            ends.append((name, round(now())))

        await asyncio.gather(*[use("slow", 10) for _ in range(5)], *[use("quick", 1) for _ in range(3)])
        assert ends == [*[("quick", 1)] * 2, ("quick", 2), *[("slow", 10)] * 2, *[("slow", 20)] * 2, ("slow", 30)]
        assert not lanes._lanes

    run_virtually(main())
