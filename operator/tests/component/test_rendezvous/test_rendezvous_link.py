"""The operator's link to a rendezvous host."""

import asyncio
import contextlib
import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from rendezvous_host import TOKEN, Host, running_host
from torchrun_operator.rendezvous.client import RendezvousLink
from torchrun_rendezvous.protocol import RendezvousState, Target

WANTED = Target(
    generation=1, size=3, minimum=2, last_call_seconds=5.0, leavers=("10.0.0.1",), progress_deadline_seconds=20
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with running_host(tmp_path_factory.mktemp("host")) as host:
        yield host


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - much of what is waited for happens in another process
            await asyncio.sleep(0.01)


def _of(link: RendezvousLink) -> RendezvousState:
    assert link.latest is not None
    return link.latest


async def test_the_link_brings_the_target_and_what_happens(shared: Host) -> None:
    changes: list[tuple[bool, RendezvousState | None]] = []
    link = RendezvousLink("127.0.0.1", shared.http_port, TOKEN, lambda: changes.append((link.connected, link.latest)))
    assert (link.latest, link.connected, link.unauthorized) == (None, False, False)
    link.set_target(WANTED)
    await until(lambda: link.latest is not None and link.latest.target == WANTED)
    wanted = replace(WANTED, size=2, leavers=())
    link.set_target(wanted)
    await until(lambda: link.latest is not None and link.latest.target == wanted)
    assert shared.state()["target"]["size"] == 2
    document = json.dumps({"step": 7, "worldSize": 1}).encode()
    assert (await asyncio.to_thread(shared.request, "POST", "/v1/progress", document))[0] == 200
    await until(lambda: (said := _of(link).progress) is not None and said.step == 7)
    assert len(changes) >= 3
    assert changes[-1] == (True, link.latest)
    await link.aclose()
    assert not link.connected


async def test_the_link_outlives_the_host_and_sends_the_target_to_the_next_one(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    with running_host(tmp_path) as host:
        port, http_port = host.port, host.http_port
        link = RendezvousLink("127.0.0.1", host.http_port, TOKEN)
        link.set_target(WANTED)
        await until(lambda: link.latest is not None and link.latest.target == WANTED)
        assert link.latest is not None
        first = link.latest.instance
        await loop.run_in_executor(None, host.stop, signal.SIGKILL)
        await until(lambda: not link.connected)
        assert link.latest.instance == first
    with running_host(tmp_path, ready=False, http_port=http_port, port=port):
        await until(lambda: _of(link).instance != first and _of(link).target == WANTED)
        assert link.connected
        await link.aclose()


async def test_the_link_says_that_its_token_is_refused(shared: Host) -> None:
    link = RendezvousLink("127.0.0.1", shared.http_port, "another")
    await until(lambda: link.unauthorized)
    assert (link.latest, link.connected) == (None, False)
    await link.aclose()


@pytest.mark.parametrize("answer", ["garbage", "endless", "redirect", "error"])
async def test_the_link_trusts_no_host(answer: str) -> None:
    asked = 0

    async def respond(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        if answer == "garbage":
            return web.Response(body=b'{"instance": 5}')
        if answer == "redirect":
            raise web.HTTPFound("/elsewhere")
        if answer == "error":
            raise web.HTTPInternalServerError
        stream = web.StreamResponse()
        await stream.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await stream.write(b" " * 65536)
        return stream

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", respond)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    link = RendezvousLink("127.0.0.1", runner.addresses[0][1], TOKEN)
    await until(lambda: asked >= 2)
    assert (link.latest, link.connected, link.unauthorized) == (None, False, False)
    await link.aclose()
    await runner.cleanup()


async def test_a_link_that_has_failed_can_time_out() -> None:
    """A conversation that ends must not leave its task half cancelled. Otherwise, up to Python 3.11.2, asyncio.timeout,
    which limits each request, raises CancelledError instead of TimeoutError, and the link ends for good.
    """
    counts: list[int] = []

    async def respond(_request: web.Request) -> web.Response:
        task = link._task
        counts.append(task.cancelling())
        if len(counts) % 2:
            return web.Response(body=_STATE)
        raise web.HTTPInternalServerError

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", respond)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    link = RendezvousLink("127.0.0.1", runner.addresses[0][1], TOKEN)
    await until(lambda: len(counts) >= 5)
    assert set(counts) == {0}
    await link.aclose()
    await runner.cleanup()


_STATE = json.dumps(
    {
        "instance": "aa", "version": 1, "round": 0, "complete": False, "closed": False, "finished": 0,
        "members": [], "waiting": [], "roundsEnded": {"requested": 0, "unrequested": 0}, "lastUnrequested": None,
        "completedAt": None, "target": None, "progress": None,
    }
).encode()  # fmt: skip
