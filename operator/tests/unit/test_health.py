"""Health: stuck parts, and the answers of the endpoints."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import aiohttp
import pytest
from aiohttp import web

from torchrun_operator.process.endpoints import health_app, serving
from torchrun_operator.telemetry.health import Liveness, Readiness
from torchrun_operator.telemetry.metrics import Metrics


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Server:
    clock: Clock
    liveness: Liveness
    readiness: Readiness
    metrics: Metrics
    url: str
    client: aiohttp.ClientSession

    async def get(self, path: str) -> tuple[int, str]:
        async with self.client.get(self.url + path) as response:
            return response.status, await response.text()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    clock = Clock()
    liveness, readiness, metrics = Liveness(clock), Readiness(["jobs listed", "pods listed"]), Metrics("1.2.3")
    app = health_app(liveness, readiness, metrics)
    async with serving(app, "127.0.0.1", 0) as port, aiohttp.ClientSession() as client:
        yield Server(clock, liveness, readiness, metrics, f"http://127.0.0.1:{port}", client)


def healthy_app() -> web.Application:
    return health_app(Liveness(), Readiness(), Metrics("1"))


Step = Callable[[Liveness, Clock], None]


def later(seconds: float) -> Step:
    def step(_: Liveness, clock: Clock) -> None:
        clock.now += seconds

    return step


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], []),
        ([lambda li, c: li.expect("watch", 60), later(60)], []),
        (
            [lambda li, c: li.expect("watch", 60), later(61)],
            ["watch: no heartbeat for 61 s, expected within 60 s"],
        ),
        ([lambda li, c: li.expect("watch", 60), later(50), lambda li, c: li.beat("watch"), later(50)], []),
        ([lambda li, c: li.beat("nobody asked"), later(9)], []),
        (
            [lambda li, c: li.expect("a", 0.5), lambda li, c: li.expect("b", 30), later(20)],
            ["a: no heartbeat for 20 s, expected within 0.5 s"],
        ),
        (
            [lambda li, c: li.follow("watch", 60, lambda: c.now - 1000), later(61)],
            ["watch: no heartbeat for 61 s, expected within 60 s"],
        ),
        ([lambda li, c: li.follow("watch", 60, lambda: 60), later(90)], []),
    ],
)
def test_heartbeats(steps: list[Step], expected: list[str]) -> None:
    clock = Clock()
    liveness = Liveness(clock)
    for step in steps:
        step(liveness, clock)
    assert liveness.stuck() == expected


def test_work_that_takes_too_long_is_stuck_until_it_ends() -> None:
    clock = Clock()
    liveness = Liveness(clock)
    with liveness.working("reconcile ns/a", 120):
        clock.now += 100
        with liveness.working("reconcile ns/a", 120):
            clock.now += 30
            assert liveness.stuck() == ["reconcile ns/a: runs for 130 s, must end within 120 s"]
        assert len(liveness.stuck()) == 1
    assert liveness.stuck() == []
    with pytest.raises(ValueError, match="boom"), liveness.working("reconcile ns/a", 1):
        raise ValueError("boom")
    clock.now += 9
    assert liveness.stuck() == []


async def test_healthz_names_what_is_stuck(server: Server) -> None:
    assert await server.get("/healthz") == (200, "ok\n")
    server.liveness.expect("watch of pods", 60)
    server.clock.now += 75
    assert await server.get("/healthz") == (503, "watch of pods: no heartbeat for 75 s, expected within 60 s\n")
    server.liveness.beat("watch of pods")
    assert await server.get("/healthz") == (200, "ok\n")


async def test_healthz_stays_short(server: Server) -> None:
    for number in range(25):
        server.liveness.expect(f"task {number}", 1)
    server.clock.now += 2
    status, text = await server.get("/healthz")
    assert (status, text.splitlines()[-2:]) == (
        503,
        ["task 19: no heartbeat for 2 s, expected within 1 s", "... and 5 more"],
    )


async def test_readyz_waits_for_everything(server: Server) -> None:
    assert await server.get("/readyz") == (503, "jobs listed: pending\npods listed: pending\n")
    server.readiness.reached("jobs listed")
    server.readiness.reached("never awaited")
    assert server.readiness.awaited == ("pods listed",)
    server.readiness.reached("pods listed")
    assert await server.get("/readyz") == (200, "ok\n")


async def test_readyz_shows_what_others_wait_for_and_notes() -> None:
    waiting, notes = ["watch of jobs"], ["watch of pods in namespace b: forbidden"]
    app = health_app(Liveness(), Readiness(["jobs listed"], lambda: waiting, lambda: notes), Metrics("1"))
    async with serving(app, "127.0.0.1", 0) as port, aiohttp.ClientSession() as client:
        server = Server(Clock(), Liveness(), Readiness(), Metrics("1"), f"http://127.0.0.1:{port}", client)
        expected = "jobs listed: pending\nwatch of jobs: pending\nwatch of pods in namespace b: forbidden\n"
        assert await server.get("/readyz") == (503, expected)


async def test_a_note_does_not_keep_the_operator_from_being_ready() -> None:
    app = health_app(Liveness(), Readiness(notes=lambda: ["watch of pods in namespace b: forbidden"]), Metrics("1"))
    async with serving(app, "127.0.0.1", 0) as port, aiohttp.ClientSession() as client:
        server = Server(Clock(), Liveness(), Readiness(), Metrics("1"), f"http://127.0.0.1:{port}", client)
        assert await server.get("/readyz") == (200, "ok\nwatch of pods in namespace b: forbidden\n")


async def test_metrics_are_served_in_prometheus_format(server: Server) -> None:
    server.metrics.rounds_completed()
    async with server.client.get(server.url + "/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        assert "torchrun_operator_rendezvous_rounds_total 1.0" in await response.text()


async def test_an_error_is_an_answer_too(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> int:
        raise ValueError("broken")

    server.metrics.watch_queue(broken, lambda: 0.0)
    with caplog.at_level(logging.ERROR):
        assert await server.get("/metrics") == (500, "ValueError\n")
    assert "cannot answer /metrics" in caplog.text
    assert await server.get("/healthz") == (200, "ok\n")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/", 404), ("POST", "/healthz", 405)])
async def test_anything_else_is_refused(server: Server, method: str, path: str, status: int) -> None:
    async with server.client.request(method, server.url + path) as response:
        assert response.status == status


async def test_a_taken_port_is_an_error_and_a_closed_one_is_free_again() -> None:
    async with serving(healthy_app(), "127.0.0.1", 0) as port:
        with pytest.raises(OSError, match="in use"):
            async with serving(healthy_app(), "127.0.0.1", port):
                pass
    async with serving(healthy_app(), "127.0.0.1", port) as again:
        assert again == port


async def test_every_interface_is_the_default() -> None:
    async with serving(healthy_app(), "127.0.0.1", 0) as free:
        pass
    async with serving(healthy_app(), None, free):
        _, writer = await asyncio.open_connection("127.0.0.1", free)
        writer.close()
        await writer.wait_closed()
