"""Adapter, manifests and reconciler on a real API server, with the rights of the chart: it refuses nothing."""

import asyncio
import base64
import gc
import itertools
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders import job_manifest
from fake_links import FakeLinks
from real_cluster import adapter, path_of, version
from stub_cluster import running, until
from torchrun_operator.api.v1alpha1 import TorchrunJob, job_of
from torchrun_operator.cluster.kubernetes import KubernetesCluster
from torchrun_operator.cluster.port import ClusterError, ConflictError, NameTakenError, RefusedError
from torchrun_operator.cluster.watch.cache import JobCache
from torchrun_operator.cluster.watch.jobs import JobWatch
from torchrun_operator.reconcile.reconciler import Reconciler
from torchrun_operator.render.node_pod import node_pod
from torchrun_operator.render.objects import prerequisites, services
from torchrun_operator.render.rendezvous_pod import rendezvous_pod
from torchrun_operator.telemetry.metrics import Metrics
from world import PROGRAMS

pytestmark = pytest.mark.integration

STATUSES = {
    path.stem: yaml.safe_load(path.read_text())
    for path in sorted((Path(__file__).parents[1] / "unit" / "golden" / "status").glob("*.yaml"))
}
JOBS = "/apis/torchrun.dev/v1alpha1/namespaces/default/torchrunjobs"
NUMBERS = itertools.count(1)
FILES = [{"path": "/workspace/train.py", "content": "print('train')\n"}]
CLAIM = {"spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}}


def new_job(server: Any, **spec: Any) -> TorchrunJob:
    """Create a job with a unique name."""
    manifest = job_manifest(f"job-{next(NUMBERS)}", **spec)
    manifest["metadata"] = {"name": manifest["metadata"]["name"], "namespace": "default"}
    status, answer = server.request("POST", JOBS, manifest)
    assert status == 201, answer
    return job_of(answer)


@pytest.mark.parametrize("attempt", range(8))
def test_a_watch_that_is_stopped_leaves_no_connection(
    torchrunjobs: Any, monkeypatch: pytest.MonkeyPatch, attempt: int
) -> None:
    """Its event loop ends at once, and waits for no answer of the API server. One attempt in three showed it."""
    monkeypatch.setenv("KUBECONFIG", str(torchrunjobs.as_operator().kubeconfig))
    job = new_job(torchrunjobs)

    async def main() -> None:
        found = asyncio.Event()
        watch = JobWatch("", JobCache(), lambda key: found.set() if key[1] == job.metadata.name else None)
        watching = asyncio.create_task(watch.run())
        async with asyncio.timeout(30):
            await found.wait()
        watching.cancel()
        await asyncio.wait([watching])

    asyncio.run(main())
    gc.collect()  # an open connection is a ResourceWarning, and thus an error


async def test_jobs_are_found(torchrunjobs: Any) -> None:
    job = new_job(torchrunjobs)
    async with adapter(torchrunjobs) as cluster:
        assert (
            await cluster.get_job("default", job.metadata.name)
            == torchrunjobs.request("GET", f"{JOBS}/{job.metadata.name}")[1]
        )
        assert await cluster.get_job("default", "nobody") is None
        assert ("default", job.metadata.name) in await cluster.list_jobs("")


@pytest.mark.parametrize("status", STATUSES.values(), ids=STATUSES)
async def test_a_status_is_read_as_it_was_written(torchrunjobs: Any, status: dict[str, Any]) -> None:
    """Otherwise each pass would write it again, and cause the next pass."""
    name = new_job(torchrunjobs).metadata.name
    async with adapter(torchrunjobs) as cluster:
        job = await cluster.get_job("default", name)
        assert job is not None
        await cluster.apply_status("default", name, job["metadata"]["resourceVersion"], status)
        written = await cluster.get_job("default", name)
        assert written is not None
        assert written["status"] == status
        await cluster.apply_status("default", name, written["metadata"]["resourceVersion"], status)
        assert version(torchrunjobs, f"{JOBS}/{name}") == written["metadata"]["resourceVersion"]


@pytest.mark.parametrize(
    ("told", "read"),
    [
        ("the loss is \U0001f34c", None),
        ('tab\tnew line\nquote"backslash\\ud83d\\U0001f34c', None),
        ("umlaut \xe4, last \ud7ff\ue000\ufffd, not a character \ufffe\uffff, mark \ufeff", None),
        ("breaks \r\x85\u2028\u2029, controls \0\x01\x7f\x80\x9f", None),
        ("half of a pair: \ud83d, \udf4c", "half of a pair: \ufffd, \ufffd"),
        ("bytes that are no text: \udcff", "bytes that are no text: \ufffd"),
    ],
    ids=["emoji", "quotes", "rare", "controls", "surrogates", "bytes"],
)
async def test_any_error_message_of_a_script_can_be_written(torchrunjobs: Any, told: str, read: str | None) -> None:
    """Otherwise the API server would reject the status in every pass, and the job would never continue."""
    job = new_job(torchrunjobs, files=[{"path": "/workspace/train.py", "content": "print()"}])
    program = next(m for m in prerequisites(job, PROGRAMS, "default") if m["kind"] == "ConfigMap")
    async with adapter(torchrunjobs) as cluster:
        manifest = await cluster.get_job("default", job.metadata.name)
        assert manifest is not None
        status = {"state": "Failed", "lastFailure": {"message": told, "time": "2026-01-01T00:00:00Z", "cause": "code"}}
        await cluster.apply_status("default", job.metadata.name, manifest["metadata"]["resourceVersion"], status)
        _, written = torchrunjobs.request("GET", f"{JOBS}/{job.metadata.name}")
        assert written["status"]["lastFailure"]["message"] == (read or told)
        for text in ("before", told):
            await cluster.apply({**program, "data": {"train.py": text}})
        _, written = torchrunjobs.request("GET", path_of(program))
        assert written["data"] == {"train.py": read or told}


async def test_one_status_takes_the_place_of_another(torchrunjobs: Any) -> None:
    """Fields, conditions and nodes that are missing in the new status disappear: only the operator writes them."""
    name = new_job(torchrunjobs).metadata.name
    async with adapter(torchrunjobs) as cluster:
        for golden in ("trains-with-progress", "suspended", "failed", "new"):
            status = STATUSES[golden]
            job = await cluster.get_job("default", name)
            assert job is not None
            await cluster.apply_status("default", name, job["metadata"]["resourceVersion"], status)
            written = await cluster.get_job("default", name)
            assert written is not None
            assert written["status"] == status


async def test_a_status_of_a_job_that_has_changed_is_a_conflict(torchrunjobs: Any) -> None:
    name = new_job(torchrunjobs).metadata.name
    before = version(torchrunjobs, f"{JOBS}/{name}")
    torchrunjobs.request("PATCH", f"{JOBS}/{name}", {"spec": {"replicas": 2}})
    async with adapter(torchrunjobs) as cluster:
        with pytest.raises(ConflictError):
            await cluster.apply_status("default", name, before, {"state": "Running"})
        with pytest.raises(ClusterError) as caught:
            await cluster.apply_status("default", "nobody", "1", {"state": "Running"})
        assert caught.value.status in (404, 409)


async def test_objects_are_made_once_and_kept_as_they_should_be(torchrunjobs: Any) -> None:
    job = new_job(torchrunjobs, files=FILES, snapshots={"volumeClaimTemplate": CLAIM})
    manifests = [*services(job), *prerequisites(job, PROGRAMS, "default")]
    assert [manifest["kind"] for manifest in manifests] == [
        "Service",
        "Service",
        "NetworkPolicy",
        "NetworkPolicy",
        "ConfigMap",
        "ConfigMap",
    ]
    async with adapter(torchrunjobs) as cluster:
        versions = []
        for _ in range(3):
            for manifest in manifests:
                await cluster.apply(manifest)
            versions.append([version(torchrunjobs, path_of(manifest)) for manifest in manifests])
        assert versions[1] == versions[2]
        program = next(manifest for manifest in manifests if manifest["kind"] == "ConfigMap")
        torchrunjobs.request("PATCH", path_of(program), {"binaryData": {"rendezvous.pyz": "eA==", "more": "eA=="}})
        await cluster.apply(program)
        found = torchrunjobs.request("GET", path_of(program))[1]
        assert base64.b64decode(found["binaryData"]["rendezvous.pyz"]) == PROGRAMS.rendezvous


async def test_an_object_of_another_owner_is_not_changed(torchrunjobs: Any) -> None:
    job = new_job(torchrunjobs)
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": job.metadata.name, "namespace": "default"},
        "spec": {"ports": [{"port": 80}]},
    }
    torchrunjobs.request("POST", "/api/v1/namespaces/default/services", theirs)
    before = version(torchrunjobs, path_of(theirs))
    async with adapter(torchrunjobs) as cluster:
        with pytest.raises(NameTakenError):
            await cluster.apply(services(job)[0])
    assert version(torchrunjobs, path_of(theirs)) == before


async def test_pods_are_made_once_and_stopped_and_deleted_by_uid(torchrunjobs: Any) -> None:
    job = new_job(torchrunjobs, files=FILES, nccl={"env": {"NCCL_DEBUG": "INFO"}, "configMapRef": {"name": "pool"}})
    async with adapter(torchrunjobs) as cluster:
        for manifest in (node_pod(job, 0), rendezvous_pod(job, "d1" * 32)):
            await cluster.create_pod(manifest)
            before = version(torchrunjobs, path_of(manifest))
            await cluster.create_pod(manifest)
            assert version(torchrunjobs, path_of(manifest)) == before
            name = manifest["metadata"]["name"]
            await cluster.delete_pod("default", name, "another", 0)
            await cluster.stop_pod("default", name, "another")
            found = torchrunjobs.request("GET", path_of(manifest))[1]
            assert "activeDeadlineSeconds" not in found["spec"]
            for _ in range(2):
                await cluster.stop_pod("default", name, found["metadata"]["uid"])
                stopped = torchrunjobs.request("GET", path_of(manifest))[1]
                assert stopped["spec"]["activeDeadlineSeconds"] == 1
            await cluster.delete_pod("default", name, found["metadata"]["uid"], None)
            await cluster.delete_pod("default", name, found["metadata"]["uid"], 0)
            assert torchrunjobs.request("GET", path_of(manifest))[0] == 404


async def test_the_reason_of_a_rejected_pod_is_reported(torchrunjobs: Any) -> None:
    manifest = node_pod(new_job(torchrunjobs), 0)
    manifest["spec"]["containers"][0]["image"] = ""
    async with adapter(torchrunjobs) as cluster:
        with pytest.raises(RefusedError) as caught:
            await cluster.create_pod(manifest)
        assert "spec.containers[0].image" in caught.value.message
        manifest["spec"]["priorityClassName"] = "nobody-has-it"
        with pytest.raises(RefusedError) as caught:
            await cluster.create_pod(manifest)
        assert "no PriorityClass with name nobody-has-it" in caught.value.message


async def pods_shown(cluster: KubernetesCluster, name: str, count: int) -> None:
    """Wait until the watch has that many pods of the job."""
    async with asyncio.timeout(10):
        while len(await cluster.list_pods("default", name)) != count:  # noqa: ASYNC110 - a watch does not notify
            await asyncio.sleep(0.01)


async def test_a_job_is_reconciled(torchrunjobs: Any) -> None:
    """A pass creates pods, objects, status and events. The next pass has nothing to do, even in a new operator."""
    name = new_job(torchrunjobs, files=FILES).metadata.name
    key = ("default", name)
    async with adapter(torchrunjobs) as cluster, running(cluster, "pods", "nodes"):
        await until(lambda: all(watch.synced for watch in cluster.watches if watch.kind == "pods"))
        for _ in range(2):  # the second time by a new operator
            links = FakeLinks({}, lambda: 0.0)
            reconciler = Reconciler(cluster, links, Metrics("test"), lambda: datetime.now(UTC), PROGRAMS)
            await reconciler.reconcile(key)
            await pods_shown(cluster, name, 4)
            await reconciler.reconcile(key)
            written = version(torchrunjobs, f"{JOBS}/{name}")
            await reconciler.reconcile(key)
            assert version(torchrunjobs, f"{JOBS}/{name}") == written
        torchrunjobs.request("PATCH", f"{JOBS}/{name}", {"spec": {"suspend": True}})
        cluster.cache.update(key, torchrunjobs.request("GET", f"{JOBS}/{name}")[1])  # as the watch does
        await reconciler.reconcile(key)
        await pods_shown(cluster, name, 0)
        await reconciler.recorder.idle()
        events = torchrunjobs.request(
            "GET", "/api/v1/namespaces/default/events", fieldSelector=f"involvedObject.name={name}"
        )[1]["items"]
        assert [event["reason"] for event in events] == ["Suspending"]
