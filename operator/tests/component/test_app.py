"""The whole operator against an API stub: it becomes ready, makes a pass over each job, and stops."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from kubernetes.aio.config import kube_config

from api_stub import ApiStub, api_stub, lines
from stub_cluster import FORBIDDEN, GROUP, NODES, PODS, collection, event, job, listed, serve_discovery
from support.ports import free_port
from torchrun_operator.cluster.watch import jobs
from torchrun_operator.process import rotation
from torchrun_operator.process.app import run
from torchrun_operator.settings import Settings


def kubeconfig(url: str) -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "stub",
            "contexts": [{"name": "stub", "context": {"cluster": "stub", "user": "stub"}}],
            "clusters": [{"name": "stub", "cluster": {"server": url}}],
            "users": [{"name": "stub", "user": {"token": "secret"}}],
        }
    )


class Running:
    """A running operator."""

    def __init__(self, stub: ApiStub, run: "asyncio.Task[int]", url: str) -> None:
        self.stub, self.run, self.url = stub, run, url

    async def get(self, path: str) -> tuple[int, str]:
        """Return the answer to a probe; (0, "") if there is none."""
        try:
            async with aiohttp.ClientSession() as client, client.get(self.url + path) as response:
                return response.status, await response.text()
        except aiohttp.ClientConnectionError:
            return 0, ""

    async def until(self, path: str, status: int) -> str:
        """Wait until a probe answers with this status; return its text."""
        async with asyncio.timeout(20):
            while (found := await self.get(path))[0] != status:
                assert not self.run.done(), self.run.exception()
                await asyncio.sleep(0.02)
        return found[1]

    async def exit_status(self) -> int:
        """Wait for the operator to end."""
        async with asyncio.timeout(20):
            return await self.run


@asynccontextmanager
async def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    hold = asyncio.Event()
    port = free_port()
    (tmp_path / "key").write_bytes(b"k" * 32)
    async with api_stub() as stub:
        (tmp_path / "config").write_text(kubeconfig(stub.url))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        # The client reads the variable when it is imported.
        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
        serve_discovery(stub)
        stub.on(f"GET {GROUP}/torchrunjobs", collection(listed(10), lines(event("ADDED", job("new", 11)), then=hold)))
        stub.on(PODS, collection(listed(10), lines(then=hold)))
        stub.on(NODES, FORBIDDEN)
        settings = Settings(http_host="127.0.0.1", http_port=port, key_file=tmp_path / "key", workers=2)
        running = Running(stub, asyncio.create_task(run(settings)), f"http://127.0.0.1:{port}")
        try:
            yield running
        finally:
            hold.set()
            running.run.cancel()
            await asyncio.wait([running.run])


async def test_it_becomes_ready_makes_passes_and_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with operator(tmp_path, monkeypatch) as it:
        assert await it.until("/readyz", 200) == f"ok\nwatch of nodes: forbidden, retried: {FORBIDDEN[1]['message']}\n"
        assert await it.get("/healthz") == (200, "ok\n")
        _, metrics = await it.get("/metrics")
        for watch, up in (("jobs", 1), ("pods", 1), ("nodes", 0)):
            assert f'torchrun_operator_watch_up{{namespace="",watch="{watch}"}} {up}.0' in metrics
        async with asyncio.timeout(20):
            while f"PATCH {GROUP}/namespaces/team/torchrunjobs/new/status" not in it.stub.requests:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await it.exit_status() == 0


async def test_it_ends_where_a_watch_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Kubernetes restarts it."""
    async with operator(tmp_path, monkeypatch) as it:
        await it.until("/readyz", 200)
        monkeypatch.setattr(jobs, "_HUNG_TICKS", -1)
        assert await it.exit_status() == 1
        assert "watch of jobs has ended: the operator stops" in caplog.text


async def test_it_ends_once_its_key_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Kubernetes restarts it, and it replaces the rendezvous pods. With a useless key it could not start again."""
    monkeypatch.setattr(rotation, "_PERIOD_SECONDS", 0.01)
    async with operator(tmp_path, monkeypatch) as it:
        await it.until("/readyz", 200)
        (tmp_path / "key").write_bytes(b"short")
        async with asyncio.timeout(20):
            while "the rendezvous key cannot be used any more" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await it.get("/healthz") == (200, "ok\n")
        (tmp_path / "key").write_bytes(b"n" * 32)
        assert await it.exit_status() == 0
        assert "the rendezvous key has changed: the operator starts again" in caplog.text
