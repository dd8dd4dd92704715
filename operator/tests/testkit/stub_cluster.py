"""The adapter and its watches, connected to an API stub."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import kopf
from aiohttp import web
from kubernetes.aio import client

from api_stub import ApiStub, Asked, Reply, api_stub, status_of
from torchrun_operator.cluster.kubernetes import KubernetesCluster
from torchrun_operator.cluster.port import Key, NotSyncedError
from torchrun_operator.cluster.watch.base import Kind

PODS, NODES = "GET /api/v1/pods", "GET /api/v1/nodes"
GROUP = "/apis/torchrun.dev/v1alpha1"
FORBIDDEN = (403, status_of(403, "Forbidden", "the service account has no such right"))
UNAVAILABLE = (503, status_of(503, "ServiceUnavailable", "etcd has no leader"))

Latencies = list[tuple[str, str, int]]


@asynccontextmanager
async def adapter(
    url: str, namespaces: Sequence[str] = (), wake: Callable[[Key], None] = lambda _key: None
) -> AsyncIterator[tuple[KubernetesCluster, Latencies]]:
    """Yield an adapter for the server at that address, and its reports of requests."""
    latencies: Latencies = []
    configuration = client.Configuration()
    configuration.host = url
    configuration.api_key = {"BearerToken": "Bearer secret"}

    def observe(verb: str, resource: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        latencies.append((verb, resource, status))

    def login(**_: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(server=url, token="secret")

    cluster = KubernetesCluster(configuration, observe, wake, namespaces, login)
    try:
        yield cluster, latencies
    finally:
        await cluster.aclose()


@asynccontextmanager
async def running(cluster: KubernetesCluster, *kinds: Kind) -> AsyncIterator[None]:
    """Run the watches of these kinds inside the block."""
    tasks = [asyncio.create_task(watch.run(), name=watch.name) for watch in cluster.watches if watch.kind in kinds]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until the condition is true. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - a watch does not notify
            await asyncio.sleep(0.005)


def listed(version: int, *things: dict[str, Any]) -> tuple[int, Any]:
    """Reply with a list."""
    return 200, {"metadata": {"resourceVersion": str(version)}, "items": list(things)}


def event(kind: str, thing: dict[str, Any]) -> dict[str, Any]:
    """Return an event of a stream."""
    return {"type": kind, "object": thing}


def collection(found: tuple[int, Any], stream: Any) -> Reply:
    """Reply with a list, or with a stream if the request is a watch."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            response: web.StreamResponse = await stream(request)
            return response
        return web.json_response(found[1], status=found[0])

    return answer


def pod(name: str, version: int, job: str = "digits", namespace: str = "team", **metadata: Any) -> dict[str, Any]:
    """Return a pod of a job."""
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "resourceVersion": str(version),
            "labels": {"torchrun.dev/job-name": job},
            **metadata,
        },
        "spec": {"nodeName": "m1", "containers": [{"name": "trainer"}]},
        "status": {"phase": "Running"},
    }


def job(name: str, version: int, namespace: str = "team") -> dict[str, Any]:
    """Return a job."""
    metadata = {"namespace": namespace, "name": name, "uid": f"{namespace}-{name}", "resourceVersion": str(version)}
    return {"apiVersion": "torchrun.dev/v1alpha1", "kind": "TorchrunJob", "metadata": metadata}


def serve_discovery(stub: ApiStub) -> None:
    """Answer the requests of kopf before it watches."""
    versions = [{"groupVersion": "torchrun.dev/v1alpha1", "version": "v1alpha1"}]
    group = {"name": "torchrun.dev", "versions": versions, "preferredVersion": versions[0]}
    jobs = {"name": "torchrunjobs", "singularName": "torchrunjob", "kind": "TorchrunJob", "namespaced": True}
    namespaces = {"name": "namespaces", "singularName": "namespace", "kind": "Namespace", "namespaced": False}
    verbs = ["get", "list", "watch", "patch"]
    stub.on("GET /api", (200, {"versions": ["v1"]}))
    stub.on("GET /api/v1", (200, {"resources": [{**namespaces, "verbs": verbs}]}))
    stub.on("GET /apis", (200, {"groups": [group]}))
    stub.on(f"GET {GROUP}", (200, {"resources": [{**jobs, "verbs": verbs}]}))


class Followed:
    """A cluster with watches of pods and Kubernetes nodes."""

    def __init__(self, cluster: KubernetesCluster, stub: ApiStub, woken: list[Key]) -> None:
        self.cluster, self.stub, self.woken = cluster, stub, woken

    @property
    def asked(self) -> list[Asked]:
        """The requests for pods."""
        return [asked for asked in self.stub.asked if asked.path == "/api/v1/pods"]

    async def pods(self, job: str = "digits") -> dict[str, str]:
        """Return the resource versions of the job's pods by name."""
        found = await self.cluster.list_pods("team", job)
        return {pod["metadata"]["name"]: pod["metadata"]["resourceVersion"] for pod in found}

    async def until(self, expected: dict[str, str], job: str = "digits") -> None:
        """Wait until the watch has exactly these pods."""
        async with asyncio.timeout(5):
            while True:
                with contextlib.suppress(NotSyncedError):
                    if await self.pods(job) == expected:
                        return
                await asyncio.sleep(0.005)


@asynccontextmanager
async def followed(*replies: Any, nodes: tuple[Any, ...] = ()) -> AsyncIterator[Followed]:
    """Watch the pods and Kubernetes nodes of an API server with these answers, one after the other."""
    woken: list[Key] = []
    async with contextlib.AsyncExitStack() as stack:
        stub = await stack.enter_async_context(api_stub())
        stub.on(PODS, *replies)
        stub.on(NODES, *(nodes or [FORBIDDEN]))
        cluster, _ = await stack.enter_async_context(adapter(stub.url, wake=woken.append))
        await stack.enter_async_context(running(cluster, "pods", "nodes"))
        yield Followed(cluster, stub, woken)
