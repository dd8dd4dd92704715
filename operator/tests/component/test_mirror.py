"""The mirror of the pods: a LIST, a WATCH from it on, and again from the start where events are no longer there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from kubernetes.aio import client

from api_stub import ApiStub, Asked, api_stub, lines, status_of
from torchrun_operator.cluster.kubernetes import KubernetesCluster
from torchrun_operator.cluster.watch import mirror

PODS, NODES = "GET /api/v1/pods", "GET /api/v1/nodes"


def pod(name: str, version: int, job: str = "digits", **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": "team",
            "resourceVersion": str(version),
            "labels": {"torchrun.dev/job-name": job},
            **metadata,
        },
        "spec": {"nodeName": "m1", "containers": [{"name": "trainer"}]},
        "status": {"phase": "Running"},
    }


def listed(version: int, *pods: dict[str, Any]) -> tuple[int, Any]:
    return 200, {"metadata": {"resourceVersion": str(version)}, "items": list(pods)}


def event(kind: str, thing: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "object": thing}


class Followed:
    """A cluster that follows its pods."""

    def __init__(self, cluster: KubernetesCluster, stub: ApiStub, woken: list[tuple[str, str]]) -> None:
        self.cluster, self.stub, self.woken = cluster, stub, woken

    @property
    def asked(self) -> list[Asked]:
        """What was asked about pods."""
        return [asked for asked in self.stub.asked if asked.path == "/api/v1/pods"]

    async def pods(self, job: str = "digits") -> dict[str, str]:
        """Return the resource versions of the job's pods by name."""
        found = await self.cluster.list_pods("team", job)
        return {pod["metadata"]["name"]: pod["metadata"]["resourceVersion"] for pod in found}

    async def until(self, expected: dict[str, str], job: str = "digits") -> None:
        """Wait until the mirror shows exactly these pods."""
        async with asyncio.timeout(5):
            while await self.pods(job) != expected:  # noqa: ASYNC110 - the mirror tells nobody
                await asyncio.sleep(0.005)


@asynccontextmanager
async def followed(*replies: Any, nodes: tuple[Any, ...] = ()) -> AsyncIterator[Followed]:
    """Follow the pods and nodes of an API server that answers so, one after another."""
    async with api_stub() as stub:
        stub.on(PODS, *replies)
        stub.on(NODES, *(nodes or [(403, status_of(403, "Forbidden"))]))
        configuration = client.Configuration()
        configuration.host = stub.url
        configuration.client_session_kwargs = {"trust_env": False}
        woken: list[tuple[str, str]] = []
        cluster = KubernetesCluster(client.ApiClient(configuration), lambda *_: None, woken.append)
        following = asyncio.create_task(cluster.follow_pods())
        try:
            yield Followed(cluster, stub, woken)
        finally:
            following.cancel()
            await asyncio.wait([following])
            await cluster.aclose()


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "_RETRY_SECONDS", 0.01)


async def test_what_changes_is_shown_and_wakes_its_job() -> None:
    end = asyncio.Event()
    changes = lines(
        event("MODIFIED", pod("digits-0", 11)),
        event("ADDED", pod("other-0", 12, job="other")),
        event("BOOKMARK", {"metadata": {"resourceVersion": "20"}}),
        event("DELETED", pod("digits-1", 21)),
        then=end,
    )
    async with followed(listed(10, pod("digits-0", 3), pod("digits-1", 4)), changes) as it:
        await it.until({"digits-0": "11"})
        await it.until({"other-0": "12"}, job="other")
        assert it.woken == [
            ("team", "digits"),
            ("team", "digits"),
            ("team", "other"),
            ("team", "digits"),
        ]
        assert [asked.query.get("resourceVersion") for asked in it.asked] == [None, "10"]
        assert {asked.query["labelSelector"] for asked in it.asked} == {"torchrun.dev/job-name"}
        end.set()


async def test_a_watch_that_ends_goes_on_where_it_was() -> None:
    end = asyncio.Event()
    async with followed(
        listed(10),
        lines(event("ADDED", pod("digits-0", 11)), event("BOOKMARK", {"metadata": {"resourceVersion": "15"}})),
        lines(event("ADDED", pod("digits-1", 16)), then=end),
    ) as it:
        await it.until({"digits-0": "11", "digits-1": "16"})
        assert [asked.query.get("resourceVersion") for asked in it.asked] == [None, "10", "15"]
        end.set()


@pytest.mark.parametrize(
    "gone",
    [
        lines(event("ERROR", status_of(410, "Expired", "too old resource version"))),
        (410, status_of(410, "Expired", "too old resource version")),
    ],
    ids=["within the stream", "at once"],
)
async def test_events_that_are_no_longer_there(gone: Any) -> None:
    """Pods that went meanwhile are gone, and their job is woken."""
    end = asyncio.Event()
    async with followed(
        listed(10, pod("digits-0", 3), pod("other-0", 4, job="other")),
        gone,
        listed(90, pod("digits-0", 80)),
        lines(then=end),
    ) as it:
        await it.until({"digits-0": "80"})
        await it.until({}, job="other")
        assert ("team", "other") in it.woken[2:]
        end.set()


async def test_an_api_server_that_fails_for_a_while() -> None:
    end = asyncio.Event()
    async with followed(
        (500, status_of(500, "InternalError")),
        (503, "down"),
        listed(10, pod("digits-0", 3)),
        (500, status_of(500, "InternalError")),
        lines(event("ADDED", pod("digits-1", 11)), then=end),
    ) as it:
        await it.until({"digits-0": "3", "digits-1": "11"})
        end.set()


async def test_nobody_reads_before_the_first_list() -> None:
    async with followed((500, status_of(500, "InternalError"))) as it:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await it.pods()


async def test_a_large_pod_stops_nothing() -> None:
    """An object may have 1.5 MiB, and anybody may label a pod of theirs as a job's."""
    end = asyncio.Event()
    large = pod("digits-0", 11, annotations={"notes": "x" * 1_400_000})
    async with followed(listed(10), lines(event("ADDED", large), event("ADDED", pod("digits-1", 12)), then=end)) as it:
        await it.until({"digits-0": "11", "digits-1": "12"})
        end.set()


async def test_a_stream_that_is_no_json_is_begun_anew() -> None:
    end = asyncio.Event()
    async with followed(
        listed(10),
        (200, "<html>a proxy</html>\n"),
        lines(event("ADDED", pod("digits-0", 11)), then=end),
    ) as it:
        await it.until({"digits-0": "11"})
        end.set()


async def test_only_what_decisions_need_is_kept() -> None:
    end = asyncio.Event()
    async with followed(listed(10, pod("digits-0", 3, managedFields=[{"manager": "kubelet"}])), lines(then=end)) as it:
        await it.until({"digits-0": "3"})
        (found,) = await it.cluster.list_pods("team", "digits")
        assert "managedFields" not in found["metadata"]
        assert found["spec"] == {"nodeName": "m1"}
        end.set()


def machine(name: str, version: int, ready: str = "True", *taints: str) -> dict[str, Any]:
    conditions = [
        {"type": "Ready", "status": ready, "reason": "Kubelet", "lastHeartbeatTime": f"2026-01-31T12:00:{version:02}Z"},
        {"type": "DiskPressure", "status": "False"},
    ]
    return {
        "metadata": {"name": name, "resourceVersion": str(version), "labels": {"zone": "a"}},
        "spec": {"unschedulable": True, "taints": [{"key": key, "effect": "NoExecute"} for key in taints]},
        "status": {"conditions": conditions, "images": ["large"] * 100},
    }


def kept(ready: str = "True", *taints: str) -> dict[str, Any]:
    return {
        "spec": {"taints": [{"key": key, "effect": "NoExecute"} for key in taints]},
        "status": {"conditions": [{"type": "Ready", "status": ready, "reason": "Kubelet"}]},
    }


POD_ON_M1 = listed(10, pod("digits-0", 3))


async def machines(it: Followed, expected: dict[str, Any]) -> None:
    """Wait until of m1, m2 and m3 exactly this is known."""
    async with asyncio.timeout(5):
        while await it.cluster.list_machines(["m1", "m2", "m3"]) != expected:  # noqa: ASYNC110 - the mirror tells nobody
            await asyncio.sleep(0.005)


async def test_machines_are_shown_and_wake_the_jobs_on_them() -> None:
    end = asyncio.Event()
    changes = lines(
        event("MODIFIED", machine("m1", 12)),  # a heartbeat
        event("MODIFIED", machine("m1", 13, "Unknown", "node.kubernetes.io/unreachable")),
        event("ADDED", machine("m3", 14)),
        event("DELETED", machine("m2", 15)),
        then=end,
    )
    nodes = (listed(10, machine("m1", 3), machine("m2", 4)), changes)
    async with followed(POD_ON_M1, lines(then=end), nodes=nodes) as it:
        await machines(it, {"m1": kept("Unknown", "node.kubernetes.io/unreachable"), "m2": None, "m3": kept()})
        await it.until({"digits-0": "3"})
        assert set(it.woken) == {("team", "digits")}
        assert len(it.woken) <= 3, "a heartbeat, or a machine without a pod, has woken a job"
        end.set()


async def test_machines_that_go_while_nobody_looks() -> None:
    end = asyncio.Event()
    nodes = (
        listed(10, machine("m1", 3), machine("m2", 4)),
        (410, status_of(410, "Expired")),
        listed(90, machine("m2", 80)),
        lines(event("ADDED", machine("m1", 91)), then=end),
    )
    async with followed(POD_ON_M1, lines(then=end), nodes=nodes) as it:
        await machines(it, {"m1": kept(), "m2": kept()})
        end.set()
    end.clear()
    async with followed(POD_ON_M1, lines(then=end), nodes=(*nodes[:3], lines(then=end))) as it:
        await machines(it, {"m1": None, "m2": kept()})
        end.set()


async def test_where_no_machine_is_ready_it_is_the_api_server_that_is_cut_off() -> None:
    end = asyncio.Event()
    changes = lines(event("MODIFIED", machine("m1", 12, "Unknown")), then=end)
    async with followed(POD_ON_M1, lines(then=end), nodes=(listed(10, machine("m1", 3)), changes)) as it:
        await machines(it, {})
        end.set()


async def test_without_the_right_to_read_nodes_the_rest_works(caplog: pytest.LogCaptureFixture) -> None:
    end = asyncio.Event()
    async with followed(POD_ON_M1, lines(then=end)) as it:
        await machines(it, {})
        await it.until({"digits-0": "3"})
        assert "the cluster's nodes cannot be watched" in caplog.text
        end.set()


async def test_a_pod_that_was_just_made_is_shown_at_once() -> None:
    """A mirror that lags would go on showing the pod whose place it has taken."""
    end = asyncio.Event()
    made = pod("digits-0", 12, ownerReferences=[])
    async with followed(POD_ON_M1, lines(then=end)) as it:
        await it.until({"digits-0": "3"})
        it.stub.on("POST /api/v1/namespaces/team/pods", (201, made))
        await it.cluster.create_pod({**made, "kind": "Pod"})
        assert await it.pods() == {"digits-0": "12"}
        end.set()


async def test_a_pod_that_was_just_made_does_not_hide_what_became_of_it() -> None:
    end = asyncio.Event()
    made = pod("digits-0", 12)
    changes = lines(event("ADDED", made), event("DELETED", pod("digits-0", 13)), then=end)
    async with followed(listed(10, pod("digits-1", 3)), changes) as it:
        await it.until({"digits-1": "3"})
        async with asyncio.timeout(5):
            while len(it.woken) < 3:  # noqa: ASYNC110 - the mirror tells nobody
                await asyncio.sleep(0.005)
        it.stub.on("POST /api/v1/namespaces/team/pods", (201, made))
        await it.cluster.create_pod({**made, "kind": "Pod"})
        assert await it.pods() == {"digits-1": "3"}
        end.set()
