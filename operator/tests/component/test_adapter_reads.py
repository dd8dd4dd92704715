"""The reads of the adapter: jobs, listed and cached, and logs."""

from typing import Any

import pytest

from api_stub import Asked, api_stub, status_of
from stub_cluster import GROUP, adapter
from torchrun_operator.cluster.port import ClusterError, RefusedError

POD = "/api/v1/namespaces/team/pods/digits-0"
JOB = f"{GROUP}/namespaces/team/torchrunjobs/digits"


def job_at(version: int) -> dict[str, Any]:
    return {"kind": "TorchrunJob", "metadata": {"namespace": "team", "name": "digits", "resourceVersion": str(version)}}


def jobs_of(*names: str) -> tuple[int, Any]:
    items = [{"metadata": {"namespace": name.split("/")[0], "name": name.split("/")[1]}} for name in names]
    return 200, {"metadata": {"resourceVersion": "10"}, "items": items}


async def test_jobs_of_all_namespaces_or_of_some() -> None:
    group = "/apis/torchrun.dev/v1alpha1"
    async with api_stub() as stub:
        stub.on(f"GET {group}/torchrunjobs", jobs_of("a/1", "b/2", "c/3"))
        stub.on(f"GET {group}/namespaces/a/torchrunjobs", jobs_of("a/1"))
        stub.on(f"GET {group}/namespaces/b/torchrunjobs", jobs_of("b/2"))
        async with adapter(stub.url) as (cluster, _):
            assert [(name, await cluster.list_jobs(name)) for name in cluster.namespaces] == [
                ("", [("a", "1"), ("b", "2"), ("c", "3")])
            ]
        async with adapter(stub.url, ("a", "b")) as (cluster, _):
            assert [(name, await cluster.list_jobs(name)) for name in cluster.namespaces] == [
                ("a", [("a", "1")]),
                ("b", [("b", "2")]),
            ]


async def test_a_job_that_is_known_is_not_asked_for() -> None:
    asked, listed, written = f"GET {JOB}", "GET /apis/torchrun.dev/v1alpha1/torchrunjobs", f"PATCH {JOB}/status"
    async with api_stub() as stub, adapter(stub.url) as (cluster, _):
        stub.on(asked, (200, job_at(40)))
        stub.on(listed, jobs_of("team/digits"))
        stub.on(written, (200, job_at(50)))
        for seen, expected, requests in [
            (job_at(41), 41, []),
            (job_at(39), 41, []),  # it arrives late
            (None, 40, [asked]),  # deleted and created again, and the watch missed it
        ]:
            before = len(stub.requests)
            cluster.cache.update(("team", "digits"), seen)
            assert await cluster.get_job("team", "digits") == job_at(expected)
            assert stub.requests[before:] == requests
        await cluster.apply_status("team", "digits", "41", {"state": "Running"})
        cluster.cache.update(("team", "digits"), job_at(49))  # from before the write
        assert await cluster.get_job("team", "digits") == job_at(50)
        await cluster.list_jobs("")
        assert await cluster.get_job("team", "digits") == job_at(40)
        assert stub.requests == [asked, written, listed, asked]


async def test_jobs_are_listed_in_pages() -> None:
    listed = "/apis/torchrun.dev/v1alpha1/torchrunjobs"
    async with api_stub() as stub, adapter(stub.url) as (cluster, _):
        status, first = jobs_of("a/1", "b/2")
        first["metadata"]["continue"] = "next"
        stub.on(f"GET {listed}", (status, first), jobs_of("c/3"))
        assert await cluster.list_jobs("") == [("a", "1"), ("b", "2"), ("c", "3")]
        assert [asked.query for asked in stub.asked] == [{"limit": "500"}, {"limit": "500", "continue": "next"}]


@pytest.mark.parametrize(
    ("files", "requests"), [(60_000, 0), (70_000, 2), (1_400_000, 2)], ids=["small", "large", "the largest"]
)
async def test_large_jobs_are_not_kept(files: int, requests: int) -> None:
    large = {**job_at(40), "spec": {"files": {"train.py": "x" * files}}}
    async with api_stub() as stub, adapter(stub.url) as (cluster, _):
        stub.on(f"GET {JOB}", (200, large))
        cluster.cache.put(("team", "digits"), {**large, "metadata": {**large["metadata"], "managedFields": [{}]}})
        for _ in range(2):
            assert await cluster.get_job("team", "digits") == large
        assert len(stub.asked) == requests


@pytest.mark.parametrize("status", [404, 409, 500])
async def test_a_job_whose_status_could_not_be_written_is_read_again(status: int) -> None:
    async with api_stub() as stub, adapter(stub.url) as (cluster, _):
        stub.on(f"PATCH {JOB}/status", (status, status_of(status, "No")))
        stub.on(f"GET {JOB}", (200, job_at(42)))
        cluster.cache.update(("team", "digits"), job_at(41))
        with pytest.raises(ClusterError):
            await cluster.apply_status("team", "digits", "41", {"state": "Running"})
        assert await cluster.get_job("team", "digits") == job_at(42)


LOG = f"{POD}/log"


def log_query(lines: str, **more: str) -> dict[str, str]:
    return {"container": "trainer", "limitBytes": "1048576", "timestamps": "true", "tailLines": lines, **more}


async def test_a_log() -> None:
    async with api_stub() as stub, adapter(stub.url) as (cluster, latencies):
        stub.on(f"GET {LOG}", (200, "2026-01-31T12:00:00Z step=1\n"))
        assert await cluster.read_log("team", "digits-0", "trainer") == "2026-01-31T12:00:00Z step=1\n"
        assert stub.asked == [Asked("GET", LOG, log_query("5000"), "application/json", None)]
        assert latencies == [("GET", "pods/log", 200)]


async def test_the_new_part_of_a_log() -> None:
    async with api_stub() as stub, adapter(stub.url) as (cluster, _):
        stub.on(f"GET {LOG}", (200, ""))
        assert await cluster.read_log("team", "digits-0", "trainer", 30) == ""
        assert await cluster.read_log("team", "digits-0", "trainer", -3) == ""
        asked = [log_query("5000", sinceSeconds="30"), log_query("5000", sinceSeconds="1")]
        assert [each.query for each in stub.asked] == asked


async def test_a_log_that_is_cut_before_its_end_is_read_again_from_a_later_line() -> None:
    cut, whole = "x" * (1 << 20), "2026-01-31T12:00:00Z ValueError\n"
    async with api_stub() as stub, adapter(stub.url) as (cluster, _):
        stub.on(f"GET {LOG}", (200, cut), (200, cut), (200, whole))
        assert await cluster.read_log("team", "digits-0", "trainer") == whole
        assert [each.query for each in stub.asked] == [log_query("5000"), log_query("500"), log_query("60")]


async def test_events_of_a_pod() -> None:
    event = {"reason": "FailedMount", "message": "no such volume"}
    async with api_stub() as stub, adapter(stub.url) as (cluster, latencies):
        stub.on("GET /api/v1/namespaces/team/events", (200, {"kind": "EventList", "items": [event]}))
        assert await cluster.list_events("team", "1f-2e") == [event]
        query = {"fieldSelector": "involvedObject.uid=1f-2e", "limit": "50"}
        assert stub.asked == [Asked("GET", "/api/v1/namespaces/team/events", query, "application/json", None)]
        assert latencies == [("GET", "events", 200)]


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ((403, status_of(403, "Forbidden")), RefusedError),
        ((404, status_of(404, "NotFound")), ClusterError),
        ((500, "Get https://10.0.0.1:10250: dial tcp: i/o timeout"), ClusterError),
    ],
    ids=["forbidden", "gone", "its Kubernetes node does not answer"],
)
async def test_a_log_that_cannot_be_read(reply: Any, kind: type[ClusterError]) -> None:
    async with api_stub() as stub, adapter(stub.url) as (cluster, _):
        stub.on(f"GET {LOG}", reply)
        with pytest.raises(kind):
            await cluster.read_log("team", "digits-0", "trainer")
