"""The rights of the operator on a real API server: all that it needs, none that it does not use, and their limits."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from kubernetes.aio.config import kube_config

from builders import job_manifest
from torchrun_operator.process.app import run
from torchrun_operator.settings import Settings

pytestmark = pytest.mark.integration

CORE = "/api/v1/namespaces"
JOBS = "/apis/torchrun.dev/v1alpha1/namespaces/default/torchrunjobs"
CLAIM = {"spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}}
NOW = "2026-01-01T00:00:00Z"
CONTAINERS = [{"name": "trainer", "image": "i", "command": ["torchrun"]}, {"name": "proxy", "image": "i"}]
WITH_PROXY = {"spec": {"containers": CONTAINERS}}
NAMES = (f"rights-{number}" for number in itertools.count(1))
ACCOUNT = "torchrun-operator"
"""Name of the chart's release, namespace and account; see conftest.py."""

Right = tuple[str, str, str]
"""Group, resource with its subresource, verb."""


def granted(chart: list[dict[str, Any]]) -> set[Right]:
    """Return the rights of the roles that the chart binds to the account of the operator."""
    bound = {each["roleRef"]["name"] for each in chart if each["kind"] == "ClusterRoleBinding"}
    rules = [
        rule
        for role in chart
        if role["kind"] == "ClusterRole" and role["metadata"]["name"] in bound
        for rule in role["rules"]
    ]
    return {right for rule in rules for right in itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])}


def requests(audit: Path, first: int) -> Iterator[tuple[Right, bool]]:
    """Yield each request of the operator from this byte of the audit log on, and whether it had the right."""
    for line in audit.read_bytes()[first:].splitlines():
        event = json.loads(line)
        where = event.get("objectRef")
        if where is not None and where.get("resource"):
            resource = "/".join(filter(None, (where["resource"], where.get("subresource"))))
            allowed = event["annotations"]["authorization.k8s.io/decision"] == "allow"
            yield (where.get("apiGroup", ""), resource, event["verb"]), allowed


def create(server: Any, path: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    status, answer = server.request("POST", path, manifest)
    assert status == 201, answer
    return answer  # type: ignore[no-any-return]


def owner(job: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the owner references of an object of the job."""
    about = {"name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}
    return [
        {"apiVersion": "torchrun.dev/v1alpha1", "kind": "TorchrunJob", "controller": True, "blockOwnerDeletion": True}
        | about
    ]


def new_job(server: Any, name: str, **spec: Any) -> dict[str, Any]:
    manifest = job_manifest(name, **spec)
    manifest["metadata"] = {"name": name, "namespace": "default"}
    return create(server, JOBS, manifest)


@asynccontextmanager
async def operator(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Run the whole operator as the account of the chart."""
    kubeconfig = str(server.as_operator().kubeconfig)
    monkeypatch.setenv("KUBECONFIG", kubeconfig)
    # The client reads the variable when it is imported.
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", kubeconfig)
    (tmp_path / "key").write_bytes(b"k" * 32)
    settings = Settings(
        http_host="127.0.0.1",
        http_port=0,
        key_file=tmp_path / "key",
        resync_seconds=1,
        min_reconcile_interval=0,
        namespace=ACCOUNT,
    )
    running = asyncio.create_task(run(settings))
    try:
        yield
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait([running])


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


async def until(condition: Callable[[], bool]) -> bool:
    """Wait until the condition holds. Return whether it does in time."""
    try:
        async with asyncio.timeout(30):
            while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - the API server does not notify
                await asyncio.sleep(0.1)
    except TimeoutError:
        return False
    return True


def report(server: Any, pod: str, phase: str, state: Mapping[str, Any], **beside: Mapping[str, Any]) -> None:
    """Write the status of a pod, as its kubelet would, with the states of the trainer and of other containers."""
    about = {"image": "i", "imageID": "i", "ready": False, "restartCount": 0}
    containers = [{**about, "name": name, "state": state} for name, state in {"trainer": state, **beside}.items()]
    status = {"phase": phase, "podIPs": [{"ip": "127.0.0.1"}], "podIP": "127.0.0.1", "containerStatuses": containers}
    code, answer = server.request("PATCH", f"{CORE}/default/pods/{pod}/status", {"status": status})
    assert code == 200, answer


def wait_for_a_volume(server: Any, pod: str) -> bool:
    """Schedule the pod, and write the event of a kubelet that cannot mount a volume. Return whether the pod exists."""
    status, found = server.request("GET", f"{CORE}/default/pods/{pod}")
    if status != 200:
        return False
    target = {"apiVersion": "v1", "kind": "Node", "name": "m1"}
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod}, "target": target}
    create(server, f"{CORE}/default/pods/{pod}/binding", binding)
    about = {"kind": "Pod", "namespace": "default", "name": pod, "uid": found["metadata"]["uid"]}
    event = {
        "metadata": {"generateName": pod, "namespace": "default"},
        "involvedObject": about,
        "type": "Warning",
        "reason": "FailedMount",
        "message": 'MountVolume.SetUp failed for volume "creds" : secret "s3" not found',
        "lastTimestamp": NOW,
    }
    create(server, f"{CORE}/default/events", event)
    create(server, f"{CORE}/default/events", {**event, "involvedObject": {**about, "uid": "other"}, "message": "other"})
    return True


def running_message(server: Any, job: str) -> str:
    conditions = server.request("GET", f"{JOBS}/{job}")[1].get("status", {}).get("conditions", ())
    return next((str(each["message"]) for each in conditions if each["type"] == "Running"), "")


async def test_the_operator_uses_each_of_its_rights_and_needs_no_other(
    torchrunjobs: Any, chart: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that starts, fails and is suspended, one whose pod has a taken name, and one that waits exercise all."""
    server, first = torchrunjobs, torchrunjobs.audit.stat().st_size
    job, other, waits, ends, changes = (next(NAMES) for _ in range(5))

    def pods(name: str) -> list[str]:
        label = {"labelSelector": f"torchrun.dev/job-name={name}"}
        items = server.request("GET", f"{CORE}/default/pods", **label)[1]["items"]
        return [item["metadata"]["name"] for item in items]

    def used() -> set[Right]:
        return {right for right, allowed in requests(server.audit, first) if allowed}

    strange = {"metadata": {"name": f"{other}-0"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    create(server, f"{CORE}/default/pods", strange)
    async with operator(server, tmp_path, monkeypatch):
        new_job(server, other)
        new_job(server, waits)
        new_job(server, changes)
        new_job(server, ends, nnodes=1, replicas=1, maxRestarts=0, template=WITH_PROXY)
        assert await until(lambda: wait_for_a_volume(server, f"{waits}-0"))
        new_job(
            server, job, files=[{"path": "/workspace/a.py", "content": ""}], snapshots={"volumeClaimTemplate": CLAIM}
        )
        assert await until(lambda: len(pods(job)) == 4)
        for pod in pods(job):
            report(server, pod, "Running", {"running": {"startedAt": NOW}})
        # Services are applied again while all pods have addresses.
        assert await until(lambda: ("", "services", "patch") in used())
        report(server, f"{job}-0", "Failed", {"terminated": {"exitCode": 1, "startedAt": NOW, "finishedAt": NOW}})
        assert await until(lambda: ("", "pods/log", "get") in used())
        # A suspended job applies nothing.
        server.request("PATCH", f"{JOBS}/{job}", {"spec": {"networkPolicy": False}})
        assert await until(lambda: ("networking.k8s.io", "networkpolicies", "delete") in used())
        assert await until(lambda: "create the Secret s3" in running_message(server, waits))
        # Another backend needs other objects. The Service of the last one is there once its pods have addresses.
        assert await until(lambda: len(pods(changes)) == 4)
        for pod in pods(changes):
            report(server, pod, "Running", {"running": {"startedAt": NOW}})
        assert await until(lambda: server.request("GET", f"{CORE}/default/services/{changes}-rdzv")[0] == 200)
        static = {"nnodes": 2, "replicas": 2, "nprocPerNode": 1, "rendezvous": {"backend": "static"}}
        for change in ({"suspend": True}, static, {"suspend": False}):
            code, answer = server.request("PATCH", f"{JOBS}/{changes}", {"spec": change})
            assert code == 200, answer
        for kind in ("services", "configmaps"):
            assert await until(lambda kind=kind: ("", kind, "delete") in used())  # type: ignore[misc]
        # Its sidecar runs on after the job has failed.
        ended = {"terminated": {"exitCode": 3, "startedAt": NOW, "finishedAt": NOW}}
        report(server, f"{ends}-0", "Running", ended, proxy={"running": {"startedAt": NOW}})
        assert await until(lambda: ("", "pods", "patch") in used())
        server.request("PATCH", f"{JOBS}/{ends}", {"spec": {"ttlSecondsAfterFinished": 0}})
        for name in (job, other, waits):
            server.request("PATCH", f"{JOBS}/{name}", {"spec": {"suspend": True}})
        # Not a request, but a condition of other requests: see the next test.
        expected = granted(chart) - {("torchrun.dev", "torchrunjobs/finalizers", "update")}
        await until(lambda: expected <= used())
    assert {right for right, allowed in requests(server.audit, first) if not allowed} == set()
    assert expected - used() == set(), "granted and never used"


def config_map(name: str, namespace: str = "default", **metadata: Any) -> dict[str, Any]:
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name, "namespace": namespace, **metadata}}


def test_owner_references_need_the_right_to_finalizers(torchrunjobs: Any, chart: list[dict[str, Any]]) -> None:
    """OwnerReferencesPermissionEnforcement is on here, as on OpenShift. The other tests show that it is content."""
    role = next(each for each in chart if each["kind"] == "ClusterRole" and each["metadata"]["name"] == ACCOUNT)
    path = f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{ACCOUNT}"
    job, server = new_job(torchrunjobs, next(NAMES)), torchrunjobs.as_operator()
    owned = config_map(next(NAMES), ownerReferences=owner(job))
    less = [rule for rule in role["rules"] if rule["resources"] != ["torchrunjobs/finalizers"]]

    def answer() -> tuple[int, str]:
        status, answer = server.request("POST", f"{CORE}/default/configmaps", owned, dryRun="All")
        return status, answer.get("message", "")

    assert answer()[0] == 201
    torchrunjobs.request("PATCH", path, {"rules": less})
    try:
        eventually(lambda: answer()[0] == 403)
        assert "cannot set blockOwnerDeletion" in answer()[1]
    finally:
        torchrunjobs.request("PATCH", path, {"rules": role["rules"]})
        eventually(lambda: answer()[0] == 201)


class Write(NamedTuple):
    """A request of the operator's account, and the words of the API server if it refuses the request."""

    method: str
    path: str
    body: Any
    refusal: str = ""


NOT_OWNED = "the operator may only write objects that a TorchrunJob owns"
KUBE_SYSTEM = "the operator may not write in kube-system"
DEPLOYMENT = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "u", "controller": True}


def writes(job: dict[str, Any]) -> dict[str, Write]:
    """Return requests by what they do. The objects mine (of the job) and theirs exist in both namespaces."""
    maps, system = f"{CORE}/default/configmaps", f"{CORE}/kube-system/configmaps"
    mine, no_controller = owner(job), [{**owner(job)[0], "controller": False}]
    pod = {"metadata": {"name": "new"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    event = {
        "metadata": {"generateName": "e", "namespace": "default"},
        "involvedObject": {"kind": "TorchrunJob", "apiVersion": "torchrun.dev/v1alpha1", "namespace": "default"},
    }
    pod_event = event | {"involvedObject": {"kind": "Pod", "apiVersion": "v1", "namespace": "default"}}
    return {
        "create an object of a job": Write("POST", maps, config_map("new", ownerReferences=mine)),
        "create an object of nobody": Write("POST", maps, config_map("new"), NOT_OWNED),
        "create a pod of nobody": Write("POST", f"{CORE}/default/pods", pod, NOT_OWNED),
        "create an object of another": Write("POST", maps, config_map("new", ownerReferences=[DEPLOYMENT]), NOT_OWNED),
        "own, but not control": Write("POST", maps, config_map("new", ownerReferences=no_controller), NOT_OWNED),
        "change an object of a job": Write("PATCH", f"{maps}/mine", {"data": {"a": "b"}}),
        "change an object of nobody": Write("PATCH", f"{maps}/theirs", {"data": {"a": "b"}}, NOT_OWNED),
        "take over an object": Write("PATCH", f"{maps}/theirs", {"metadata": {"ownerReferences": mine}}, NOT_OWNED),
        "give an object away": Write("PATCH", f"{maps}/mine", {"metadata": {"ownerReferences": None}}, NOT_OWNED),
        "delete a pod of a job": Write("DELETE", f"{CORE}/default/pods/mine", None),
        "delete a pod of nobody": Write("DELETE", f"{CORE}/default/pods/theirs", None, NOT_OWNED),
        "create in kube-system": Write(
            "POST", system, config_map("new", "kube-system", ownerReferences=mine), KUBE_SYSTEM
        ),
        "change in kube-system": Write("PATCH", f"{system}/mine", {"data": {"a": "b"}}, KUBE_SYSTEM),
        "delete in kube-system": Write("DELETE", f"{CORE}/kube-system/pods/mine", None, KUBE_SYSTEM),
        "delete a job": Write("DELETE", f"{JOBS}/{job['metadata']['name']}", None, NOT_OWNED),
        "delete a job that has ended": Write("DELETE", f"{JOBS}/kept", None, NOT_OWNED),
        "delete a job that has ended and asks for it": Write("DELETE", f"{JOBS}/over", None),
        "write the status of a job": Write("PATCH", f"{JOBS}/{job['metadata']['name']}/status", {"status": {}}),
        "an event about a job": Write("POST", f"{CORE}/default/events", event),
        "an event about a pod": Write("POST", f"{CORE}/default/events", pod_event, NOT_OWNED),
    }


@pytest.fixture(scope="module")
def possible(torchrunjobs: Any) -> Iterator[dict[str, Write]]:
    """Create the objects that the requests are about, as the tester, which the policy does not limit.

    Without the additional right, the API server would refuse changes of owner references before it asks the policy.
    """
    rbac = "rbac.authorization.k8s.io"
    role = {
        "metadata": {"name": "more"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["delete"]}],
    }
    binding = {
        "metadata": {"name": "more"},
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "more"},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": ACCOUNT}],
    }
    for kind, manifest in ("roles", role), ("rolebindings", binding):
        create(torchrunjobs, f"/apis/{rbac}/v1/namespaces/default/{kind}", manifest)
    job = new_job(torchrunjobs, next(NAMES))
    for ended, more in ("kept", {}), ("over", {"ttlSecondsAfterFinished": 60}):
        new_job(torchrunjobs, ended, **more)
        about = {"type": "Complete", "status": "True", "reason": "Finished", "lastTransitionTime": NOW}
        code, answer = torchrunjobs.request("PATCH", f"{JOBS}/{ended}/status", {"status": {"conditions": [about]}})
        assert code == 200, answer
    for namespace in ("default", "kube-system"):
        for name, owners in ("mine", owner(job)), ("theirs", []):
            path = f"{CORE}/{namespace}"
            create(torchrunjobs, f"{path}/configmaps", config_map(name, namespace, ownerReferences=owners))
            spec = {"containers": [{"name": "c", "image": "i"}]}
            create(torchrunjobs, f"{path}/pods", {"metadata": {"name": name, "ownerReferences": owners}, "spec": spec})
    yield writes(job)
    for kind in ("rolebindings", "roles"):
        torchrunjobs.request("DELETE", f"/apis/{rbac}/v1/namespaces/default/{kind}/more")


@pytest.mark.parametrize("name", writes({"metadata": {"name": "j", "uid": "u"}}))
def test_the_policy_keeps_the_operator_to_objects_of_jobs(
    torchrunjobs: Any, possible: dict[str, Write], name: str
) -> None:
    write = possible[name]
    status, answer = torchrunjobs.as_operator().request(write.method, write.path, write.body, dryRun="All")
    if write.refusal:
        assert (status, write.refusal in answer["message"]) == (403, True), answer
    else:
        assert status in {200, 201}, answer
