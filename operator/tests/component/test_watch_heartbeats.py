"""Heartbeats of a watch without kopf over hours: quiet, forbidden, down, and without any answer. Virtual time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from torchrun_operator.cluster.port import ClusterError
from torchrun_operator.cluster.watch.base import HEARTBEAT_SECONDS, RENEW_SECONDS, SILENCE_SECONDS, Watch
from torchrun_operator.cluster.watch.machines import MachineWatch
from torchrun_operator.cluster.watch.pods import PodWatch
from torchrun_operator.process.supervision import keep
from virtual_time import now, run_virtually

HOURS = 3 * 3600


class Server:
    """Implements collection.Api: an API server without objects, in the condition `how`."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.lists = 0

    async def list(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        """See Api.list."""
        self.lists += 1
        await self._fail()
        return {"metadata": {"resourceVersion": "10"}, "items": []}

    async def watch(self, path: str, query: Mapping[str, str], opened: Callable[[], None]) -> AsyncIterator[bytes]:
        """See Api.watch."""
        await self._fail()
        opened()
        if self.how == "silent":
            await asyncio.sleep(SILENCE_SECONDS)
            raise ClusterError(0, "SocketTimeoutError", "nothing was read in time")
        await asyncio.sleep(float(query["timeoutSeconds"]))
        nothing: tuple[bytes, ...] = ()
        for line in nothing:
            yield line

    async def _fail(self) -> None:
        if self.how == "forbidden":
            raise ClusterError(403, "Forbidden", "no such right")
        if self.how == "down":
            raise ClusterError(503, "ServiceUnavailable", "down")
        if self.how == "without an answer":
            await asyncio.sleep(30)
            raise ClusterError(0, "TimeoutError", "no answer")
        if self.how == "hangs":
            await asyncio.Event().wait()


def watched(how: str, kind: Callable[[Server], Watch]) -> tuple[float, int]:
    """Keep such a watch for hours. Return its longest silence in seconds, and the number of lists."""

    async def main() -> tuple[float, int]:
        server = Server(how)
        watch = kind(server)
        await asyncio.sleep(1)
        keeping = asyncio.create_task(keep(watch))
        longest = 0.0
        while now() < HOURS and not keeping.done():
            await asyncio.sleep(1)
            longest = max(longest, watch.silent_seconds)
        keeping.cancel()
        await asyncio.wait([keeping])
        return longest, server.lists

    return run_virtually(main())


def pods(server: Server) -> Watch:
    return PodWatch("team", server, lambda _key: None)


def machines(server: Server) -> Watch:
    return MachineWatch(server, lambda _name: None)


@pytest.mark.parametrize("kind", [pods, machines])
@pytest.mark.parametrize("how", ["quiet", "silent", "forbidden", "down", "without an answer"])
def test_a_watch_that_does_what_it_can_is_healthy(how: str, kind: Callable[[Server], Watch]) -> None:
    longest, _ = watched(how, kind)
    assert longest < HEARTBEAT_SECONDS


def test_a_quiet_watch_is_listed_once() -> None:
    longest, lists = watched("quiet", pods)
    assert lists == 1
    assert longest <= RENEW_SECONDS


def test_a_watch_whose_request_never_ends_has_no_heartbeat() -> None:
    longest, lists = watched("hangs", pods)
    assert longest > HEARTBEAT_SECONDS
    assert lists == 5, "it is started again a few times, and then the operator ends"
