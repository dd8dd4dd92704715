"""The watch of Kubernetes nodes."""

import asyncio
from typing import Any

import pytest

from api_stub import lines, status_of
from stub_cluster import Followed, event, followed, listed, pod

POD_ON_M1 = listed(10, pod("digits-0", 3))


def machine(name: str, version: int, ready: str = "True", *taints: str) -> dict[str, Any]:
    conditions = [
        {"type": "Ready", "status": ready, "reason": "Kubelet", "lastHeartbeatTime": f"2026-01-31T12:00:{version:02}Z"},
        {"type": "DiskPressure", "status": "False"},
    ]
    return {
        "metadata": {
            "name": name,
            "resourceVersion": str(version),
            "labels": {"topology.kubernetes.io/zone": "a", "team": "vision"},
        },
        "spec": {"unschedulable": True, "taints": [{"key": key, "effect": "NoExecute"} for key in taints]},
        "status": {"conditions": conditions, "images": ["large"] * 100},
    }


def kept(ready: str = "True", *taints: str) -> dict[str, Any]:
    return {
        "zone": "/a",
        **({"silentSince": 0.0} if ready == "Unknown" else {}),
        "spec": {"taints": [{"key": key, "effect": "NoExecute"} for key in taints]},
        "status": {"conditions": [{"type": "Ready", "status": ready, "reason": "Kubelet"}]},
    }


async def machines(it: Followed, expected: dict[str, Any], any_ready: bool = True) -> None:
    """Wait until exactly this is known of m1, m2 and m3."""
    named = {name: known and {"metadata": {"name": name}, **known} for name, known in expected.items()}
    async with asyncio.timeout(5):
        while (await it.cluster.list_machines(["m1", "m2", "m3"]))[:2] != (named, any_ready):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_kubernetes_nodes_are_known_and_wake_the_jobs_on_them() -> None:
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
        assert len(it.woken) <= 3, "a heartbeat, or a Kubernetes node without a pod, has woken a job"
        end.set()


async def test_kubernetes_nodes_that_are_removed_between_two_watches() -> None:
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


async def test_that_no_kubernetes_node_is_ready_is_reported() -> None:
    end = asyncio.Event()
    changes = lines(event("MODIFIED", machine("m1", 12, "Unknown")), then=end)
    async with followed(POD_ON_M1, lines(then=end), nodes=(listed(10, machine("m1", 3)), changes)) as it:
        await machines(it, {"m1": kept("Unknown")}, any_ready=False)
        end.set()


async def test_without_the_right_to_read_nodes_the_rest_works(caplog: pytest.LogCaptureFixture) -> None:
    end = asyncio.Event()
    async with followed(POD_ON_M1, lines(then=end)) as it:
        await machines(it, {}, any_ready=False)
        await it.until({"digits-0": "3"})
        assert "watch of nodes: cannot read from the API server" in caplog.text
        end.set()


async def test_silent_kubernetes_nodes_and_zones_are_counted() -> None:
    end = asyncio.Event()
    silent = machine("m1", 12, "Unknown")
    silent["status"]["conditions"][0]["lastTransitionTime"] = "1970-01-01T00:01:00Z"
    changes = lines(event("MODIFIED", silent), event("DELETED", machine("m2", 13)), then=end)
    nodes = (listed(10, machine("m1", 3), machine("m2", 4), machine("m3", 5)), changes)
    async with followed(POD_ON_M1, lines(then=end), nodes=nodes) as it, asyncio.timeout(5):
        while (found := await it.cluster.list_machines([])).zones != {"/a": 2}:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        assert (found.any_ready, [(name, s.zone, s.since) for name, s in found.silent.items()]) == (
            True,
            [("m1", "/a", 60.0)],
        )
        end.set()
