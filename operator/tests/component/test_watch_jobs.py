"""The watch of jobs: kopf in a thread, and its reaction to long failures of the API server."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import kopf
import pytest

from api_stub import ApiStub, api_stub, lines, status_of
from stub_cluster import FORBIDDEN, GROUP, UNAVAILABLE, event, job, listed, serve_discovery, until
from torchrun_operator.cluster.port import Key
from torchrun_operator.cluster.watch import jobs
from torchrun_operator.cluster.watch.base import WatchHungError
from torchrun_operator.cluster.watch.cache import JobCache
from torchrun_operator.cluster.watch.jobs import JobWatch

JOBS = f"GET {GROUP}/torchrunjobs"
KOPF_ATTEMPTS = len(list(kopf.OperatorSettings().networking.error_backoffs)) + 1  # type: ignore[arg-type]
"""kopf gives up by default after this many failed attempts: 54 s."""


class Bench:
    """A running watch."""

    def __init__(self, stub: ApiStub) -> None:
        self.stub = stub
        self.woken: list[Key] = []
        self.cache = JobCache()
        self.logins = 0
        self.watch = JobWatch("", self.cache, self.woken.append, self._login)
        self.run = asyncio.create_task(self.watch.run())

    def _login(self, **_: Any) -> kopf.ConnectionInfo:
        self.logins += 1
        return kopf.ConnectionInfo(server=self.stub.url, token="secret")

    async def until_woken(self, name: str, version: int) -> None:
        """Wait until the cache has that version of the job, and the job was woken."""

        def known() -> bool:
            found = self.cache.get(("team", name))
            return found is not None and found["metadata"]["resourceVersion"] == str(version)

        await until(known)
        assert ("team", name) in self.woken


@asynccontextmanager
async def watching(*replies: Any) -> AsyncIterator[Bench]:
    """Watch the jobs of an API server with these answers, one after the other."""
    async with api_stub() as stub:
        serve_discovery(stub)
        stub.on(JOBS, *replies)
        bench = Bench(stub)
        try:
            yield bench
        finally:
            bench.run.cancel()
            await asyncio.wait([bench.run])
    assert not [thread for thread in threading.enumerate() if thread.name == bench.watch.name]


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(jobs, "_FORBIDDEN_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(jobs, "_TICK_SECONDS", 0.05)


async def test_each_change_is_known_and_wakes_its_job() -> None:
    hold = asyncio.Event()
    changes = lines(event("ADDED", job("new", 11)), event("MODIFIED", job("digits", 12)), then=hold)
    async with watching(listed(10, job("digits", 3)), changes) as bench:
        await bench.until_woken("new", 11)
        await bench.until_woken("digits", 12)
        assert (bench.watch.synced, bench.watch.up, bench.watch.forbidden) == (True, True, None)
        hold.set()


async def test_a_deleted_job_is_forgotten() -> None:
    hold = asyncio.Event()
    changes = lines(event("DELETED", job("digits", 11)), then=hold)
    async with watching(listed(10, job("digits", 3)), changes) as bench:
        await until(lambda: bench.woken.count(("team", "digits")) == 2)
        assert bench.cache.get(("team", "digits")) is None
        hold.set()


@pytest.mark.parametrize("outage", [UNAVAILABLE, (502, "<h1>Bad gateway</h1>")], ids=["503", "502 of a proxy"])
async def test_an_outage_longer_than_kopf_has_patience(outage: Any, caplog: pytest.LogCaptureFixture) -> None:
    """By default kopf then ends, and hangs in its executor: the operator would miss new jobs until the next list."""
    hold = asyncio.Event()
    replies = [*[outage] * 3 * KOPF_ATTEMPTS, lines(event("ADDED", job("new", 11)), then=hold)]
    async with watching(listed(10), *replies) as bench:
        await bench.until_woken("new", 11)
        assert bench.watch.up
        assert not bench.run.done()
        messages = [record.getMessage() for record in caplog.records if record.name.endswith("watch.base")]
        assert len(messages) == 1, "each failed attempt was logged"
        hold.set()


async def test_an_outage_at_the_start() -> None:
    hold = asyncio.Event()
    replies = [*[UNAVAILABLE] * 2 * KOPF_ATTEMPTS, listed(10, job("digits", 3)), lines(then=hold)]
    async with watching(*replies) as bench:
        assert not bench.watch.synced
        await bench.until_woken("digits", 3)
        hold.set()


async def test_a_failure_is_a_heartbeat_and_not_up() -> None:
    async with watching(listed(10), UNAVAILABLE) as bench:
        await until(lambda: bench.watch.failing)
        before = bench.watch.last_heartbeat
        await until(lambda: bench.watch.last_heartbeat > before)
        assert not bench.watch.up


async def test_a_quiet_stream_gives_heartbeats_by_its_renewals() -> None:
    async with watching(listed(10), lines()) as bench:
        await until(lambda: bench.watch.up)
        before = bench.watch.last_heartbeat
        await until(lambda: bench.watch.last_heartbeat > before)


async def test_rejected_credentials_are_replaced() -> None:
    hold = asyncio.Event()
    unauthorized = (401, status_of(401, "Unauthorized"))
    replies = [unauthorized] * 4 + [
        listed(10, job("digits", 3)),
        unauthorized,
        lines(event("ADDED", job("new", 11)), then=hold),
    ]
    async with watching(*replies) as bench:
        await bench.until_woken("digits", 3)
        await bench.until_woken("new", 11)
        assert bench.logins == 6
        hold.set()


async def test_forbidden_is_reported_and_retried() -> None:
    hold = asyncio.Event()
    async with watching(*[FORBIDDEN] * 2 * KOPF_ATTEMPTS, listed(10, job("digits", 3)), lines(then=hold)) as bench:
        await until(lambda: bench.watch.forbidden is not None)
        await bench.until_woken("digits", 3)
        await until(lambda: bench.watch.forbidden is None and bench.watch.synced)
        hold.set()


async def test_an_error_within_the_stream_ends_kopf_and_the_next_run_sees_everything() -> None:
    hold = asyncio.Event()
    broken = lines(event("ERROR", status_of(500, "InternalError", "etcd: leader changed")))
    async with watching(listed(10), broken, listed(20, job("new", 15)), lines(then=hold)) as bench:
        await asyncio.wait([bench.run], timeout=10)
        assert "leader changed" in str(bench.run.exception())
        bench.run = asyncio.create_task(bench.watch.run())
        await bench.until_woken("new", 15)
        hold.set()


async def test_a_missing_crd_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """kopf lists the resources only once, and would then miss all jobs."""
    monkeypatch.setattr(jobs, "_DISCOVERY_SECONDS", 0.2)
    hold = asyncio.Event()
    async with watching(listed(10, job("digits", 3)), lines(then=hold)) as bench:
        bench.stub.on("GET /apis", (200, {"groups": []}))
        await asyncio.wait([bench.run], timeout=10)
        assert "is the CRD installed?" in str(bench.run.exception())
        serve_discovery(bench.stub)
        monkeypatch.setattr(jobs, "_DISCOVERY_SECONDS", 10)
        bench.run = asyncio.create_task(bench.watch.run())
        await bench.until_woken("digits", 3)
        hold.set()


async def test_a_thread_that_hangs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can end a thread, so the process must end."""
    monkeypatch.setattr(jobs, "_HUNG_TICKS", 6)
    monkeypatch.setattr(jobs, "_STOP_SECONDS", 0.1)
    release = threading.Event()

    async with api_stub() as stub:
        serve_discovery(stub)
        stub.on(JOBS, listed(10))
        bench = Bench(stub)
        login = bench.watch._login

        def hang(**arguments: Any) -> kopf.ConnectionInfo | None:
            release.wait(30)
            return login(**arguments)

        bench.watch._login = hang
        await asyncio.wait([bench.run], timeout=10)
        error = bench.run.exception()
        assert isinstance(error, WatchHungError)
        assert "the thread" in str(error)
        release.set()
        await until(lambda: not [thread for thread in threading.enumerate() if thread.name == bench.watch.name], 10)
