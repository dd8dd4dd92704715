"""Several watched namespaces, one of them forbidden: the others are not affected."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from api_stub import ApiStub, api_stub, lines
from stub_cluster import (
    FORBIDDEN,
    GROUP,
    NODES,
    adapter,
    event,
    job,
    listed,
    pod,
    running,
    serve_discovery,
    until,
)
from torchrun_operator.cluster import transport
from torchrun_operator.cluster.kubernetes import KubernetesCluster
from torchrun_operator.cluster.port import ClusterError, Key, NotSyncedError
from torchrun_operator.cluster.watch import base, collection, jobs
from torchrun_operator.cluster.watch.base import awaited, unreadable
from torchrun_operator.process.endpoints import health_app, serving
from torchrun_operator.process.wiring import report_watches
from torchrun_operator.telemetry.health import Liveness, Readiness
from torchrun_operator.telemetry.metrics import Metrics


class Bench:
    """The watches of the namespaces a, b and c. The operator must not read b."""

    def __init__(self, stub: ApiStub, cluster: KubernetesCluster, woken: list[Key], hold: asyncio.Event) -> None:
        self.stub, self.cluster, self.woken, self.hold = stub, cluster, woken, hold

    def grant(self, namespace: str) -> None:
        """Give the operator the right to read that namespace."""
        self.stub.on(
            f"GET {GROUP}/namespaces/{namespace}/torchrunjobs",
            listed(10, job("digits", 3, namespace)),
            lines(event("ADDED", job("new", 11, namespace)), then=self.hold),
        )
        pods = listed(10, pod("digits-0", 3, namespace=namespace))
        self.stub.on(f"GET /api/v1/namespaces/{namespace}/pods", pods, lines(then=self.hold))

    def deny(self, namespace: str) -> None:
        """Withdraw the right to read that namespace."""
        self.stub.on(f"GET {GROUP}/namespaces/{namespace}/torchrunjobs", FORBIDDEN)
        self.stub.on(f"GET /api/v1/namespaces/{namespace}/pods", FORBIDDEN)

    async def readyz(self) -> tuple[int, str]:
        """Return the answer of /readyz."""
        readiness = Readiness(
            [], others=lambda: awaited(self.cluster.watches), notes=lambda: unreadable(self.cluster.watches)
        )
        app = health_app(Liveness(), readiness, Metrics("test"))
        async with (
            serving(app, "127.0.0.1", 0) as port,
            aiohttp.ClientSession() as client,
            client.get(f"http://127.0.0.1:{port}/readyz") as response,
        ):
            return response.status, await response.text()

    def forbidden(self) -> set[str]:
        """Return the watches that are forbidden."""
        return {watch.name for watch in self.cluster.watches if watch.forbidden is not None}


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(jobs, "_FORBIDDEN_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(collection, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(collection.CollectionWatch, "forbidden_retry_seconds", 0.02)


@asynccontextmanager
async def bench(granted: str = "ac") -> AsyncIterator[Bench]:
    async with contextlib.AsyncExitStack() as stack:
        stub = await stack.enter_async_context(api_stub())
        woken: list[Key] = []
        cluster, _ = await stack.enter_async_context(adapter(stub.url, ["a", "b", "c"], woken.append))
        found = Bench(stub, cluster, woken, asyncio.Event())
        serve_discovery(stub)
        stub.on(NODES, FORBIDDEN)
        for namespace in "abc":
            found.grant(namespace) if namespace in granted else found.deny(namespace)
        await stack.enter_async_context(running(cluster, "jobs", "pods", "nodes"))
        yield found
        found.hold.set()


B = {"watch of jobs in namespace b", "watch of pods in namespace b"}


async def test_the_other_namespaces_go_on() -> None:
    async with bench() as it:
        await until(lambda: {("a", "new"), ("c", "new"), ("a", "digits"), ("c", "digits")} <= set(it.woken))
        assert not [key for key in it.woken if key[0] == "b"]
        for namespace in "ac":
            assert len(await it.cluster.list_pods(namespace, "digits")) == 1
            assert await it.cluster.get_job(namespace, "new") == job("new", 11, namespace)


async def test_a_pass_there_fails_at_once_instead_of_waiting() -> None:
    async with bench() as it:
        await until(lambda: it.forbidden() >= B)
        with pytest.raises(ClusterError, match="namespace b") as caught:
            await it.cluster.list_pods("b", "digits")
        assert caught.value.status == 403


async def test_readyz_and_metrics_name_the_namespace() -> None:
    async with bench() as it:
        await until(lambda: not awaited(it.cluster.watches) and it.forbidden() >= B)
        status, text = await it.readyz()
        assert status == 200
        first, *notes = text.splitlines()
        assert first == "ok"
        assert [note.split(":")[0] for note in notes] == [*sorted(B), "watch of nodes"]
        assert all("forbidden" in note for note in notes)
        metrics = Metrics("test")
        report_watches(it.cluster, Liveness(), metrics)
        shown = metrics.text().decode()
        for namespace, up in (("a", 1), ("b", 0), ("c", 1)):
            assert f'torchrun_operator_watch_up{{namespace="{namespace}",watch="jobs"}} {up}.0' in shown
            assert f'torchrun_operator_watch_forbidden{{namespace="{namespace}",watch="pods"}} {1 - up}.0' in shown


async def test_the_namespace_comes_back_with_the_permission() -> None:
    async with bench() as it:
        await until(lambda: it.forbidden() >= B)
        it.grant("b")
        await until(lambda: {("b", "digits"), ("b", "new")} <= set(it.woken))
        await until(lambda: not it.forbidden() & B)
        assert len(await it.cluster.list_pods("b", "digits")) == 1
        assert unreadable(it.cluster.watches) == [
            f"watch of nodes: forbidden, retried: {FORBIDDEN[1]['message']}",
        ]


async def test_a_permission_that_is_withdrawn() -> None:
    async with bench("abc") as it:
        await until(lambda: not awaited(it.cluster.watches))
        it.deny("b")
        it.hold.set()  # ends the streams
        await until(lambda: it.forbidden() >= B)
        assert (await it.readyz())[0] == 200


async def test_an_operator_that_may_read_nothing_is_not_ready() -> None:
    async with bench("") as it:
        await until(lambda: len(it.forbidden()) == 7)
        status, text = await it.readyz()
        assert status == 503
        assert "watch of jobs in namespace a: pending" in text


async def never(_request: web.Request) -> web.StreamResponse:
    """Do not answer."""
    await asyncio.Event().wait()
    return web.Response()


async def test_a_namespace_that_never_answers_harms_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists, watches and writes there hang. The other namespaces are read and written, and the operator gets ready."""
    monkeypatch.setattr(transport, "_TIMEOUT_SECONDS", 0.5)
    created = pod("digits-1", 12, namespace="a")
    async with bench("ac") as it:
        it.stub.on(f"GET {GROUP}/namespaces/b/torchrunjobs", never)
        it.stub.on("GET /api/v1/namespaces/b/pods", never)
        it.stub.on("POST /api/v1/namespaces/b/pods", never)
        it.stub.on("POST /api/v1/namespaces/a/pods", (201, created))
        manifest = {"kind": "Pod", "metadata": {"name": "digits-1", "namespace": "b"}}
        hanging = [asyncio.create_task(it.cluster.create_pod(manifest)) for _ in range(100)]
        await until(lambda: {("a", "new"), ("c", "new")} <= set(it.woken))
        await it.cluster.create_pod({**created, "kind": "Pod"})
        with pytest.raises(NotSyncedError):
            await it.cluster.list_pods("b", "digits")
        with pytest.raises(ClusterError):
            await it.cluster.list_jobs("b")
        it.stub.on(f"GET {GROUP}/namespaces/a/torchrunjobs", listed(10, job("digits", 3, "a")))
        assert await it.cluster.list_jobs("a") == [("a", "digits")]
        assert len(await it.cluster.list_pods("a", "digits")) == 2
        await until(lambda: "watch of pods in namespace b" not in awaited(it.cluster.watches))
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)


async def test_what_is_not_listed_yet_is_an_error_at_once_and_wakes_its_job_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(base, "_SYNC_SECONDS", 0.05)
    woken: list[Key] = []
    async with api_stub() as stub, adapter(stub.url, wake=woken.append) as (cluster, _):
        for read in (cluster.list_pods("team", "digits"), cluster.list_machines(["m1"])):
            with pytest.raises(NotSyncedError, match="not listed yet"):
                await read
        stub.on("GET /api/v1/pods", listed(10), lines(then=asyncio.Event()))
        async with running(cluster, "pods"):
            await until(lambda: woken == [("team", "digits")])
            assert await cluster.list_pods("team", "digits") == []
