"""Namespaces with rules of their own on a real API server: quotas, limits, PodSecurity, policies."""

import itertools
from datetime import UTC, datetime
from typing import Any

import pytest

from builders import job_manifest
from fake_links import FakeLinks
from real_cluster import adapter, path_of, version
from stub_cluster import running, until
from torchrun_operator.api.v1alpha1 import TorchrunJob, job_of
from torchrun_operator.cluster.port import RefusedError
from torchrun_operator.reconcile.reconciler import Reconciler
from torchrun_operator.render.node_pod import node_pod
from torchrun_operator.render.objects import claims, prerequisites, services, unwanted
from torchrun_operator.render.rendezvous_pod import rendezvous_pod
from torchrun_operator.telemetry.metrics import Metrics
from world import PROGRAMS

pytestmark = pytest.mark.integration

NUMBERS = itertools.count(1)
FILES = [{"path": "/workspace/train.py", "content": "print('train')\n"}]
CLAIM = {"spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}}


def new_namespace(server: Any, **labels: str) -> str:
    name = f"rules-{next(NUMBERS)}"
    body = {"metadata": {"name": name, "labels": labels}}
    assert server.request("POST", "/api/v1/namespaces", body)[0] == 201
    return name


def new_job(server: Any, namespace: str, **spec: Any) -> TorchrunJob:
    manifest = job_manifest("digits", **spec)
    manifest["metadata"] = {"name": "digits", "namespace": namespace}
    status, answer = server.request("POST", path_of_jobs(namespace), manifest)
    assert status == 201, answer
    return job_of(answer)


def path_of_jobs(namespace: str) -> str:
    return f"/apis/torchrun.dev/v1alpha1/namespaces/{namespace}/torchrunjobs"


def add(server: Any, namespace: str, plural: str, name: str, spec: Any, api: str = "/api/v1") -> str:
    """Create an object in the namespace. Return its path."""
    path = f"{api}/namespaces/{namespace}/{plural}"
    status, answer = server.request("POST", path, {"metadata": {"name": name}, "spec": spec})
    assert status == 201, answer
    return f"{path}/{name}"


def add_quota(server: Any, namespace: str, hard: dict[str, str], used: dict[str, str]) -> None:
    """Create a quota with the status that the controller would write."""
    path = add(server, namespace, "resourcequotas", "all", {"hard": hard})
    status, answer = server.request("PATCH", f"{path}/status", {"status": {"hard": hard, "used": used}})
    assert status == 200, answer


async def test_objects_that_use_up_a_quota_are_kept_as_they_should_be(torchrunjobs: Any) -> None:
    """The API server checks the quota of a create before it looks whether the object exists."""
    namespace = new_namespace(torchrunjobs)
    job = new_job(torchrunjobs, namespace, files=FILES, snapshots={"volumeClaimTemplate": CLAIM})
    manifests = [*services(job), *prerequisites(job, PROGRAMS, "default")]
    hard = {"services": "2", "configmaps": "2", "persistentvolumeclaims": "1", "requests.storage": "1Gi"}
    async with adapter(torchrunjobs) as cluster:
        for _ in range(2):
            for manifest in manifests:
                await cluster.apply(manifest)
            for manifest in claims(job):
                await cluster.create(manifest)
            if not torchrunjobs.request("GET", f"/api/v1/namespaces/{namespace}/resourcequotas")[1]["items"]:
                add_quota(torchrunjobs, namespace, hard, hard)
        other = services(job)[0]
        other["metadata"]["name"] = "another"
        with pytest.raises(RefusedError, match="exceeded quota"):
            await cluster.apply(other)


async def test_a_claim_is_created_and_then_left_to_its_user(torchrunjobs: Any) -> None:
    namespace = new_namespace(torchrunjobs)
    template = {"spec": {**CLAIM["spec"], "storageClassName": "expandable"}}
    (claim,) = claims(new_job(torchrunjobs, namespace, snapshots={"volumeClaimTemplate": template}))
    storage = {"metadata": {"name": "expandable"}, "provisioner": "x/y", "allowVolumeExpansion": True}
    assert torchrunjobs.request("POST", "/apis/storage.k8s.io/v1/storageclasses", storage)[0] == 201
    async with adapter(torchrunjobs) as cluster:
        await cluster.create(claim)
        path = path_of(claim)
        torchrunjobs.request("PATCH", f"{path}/status", {"status": {"phase": "Bound"}})
        larger = {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}
        status, answer = torchrunjobs.request("PATCH", path, larger)
        assert status == 200, answer
        expanded = version(torchrunjobs, path)
        await cluster.create(claim)
        assert version(torchrunjobs, path) == expanded
        torchrunjobs.request("PATCH", path, {"metadata": {"finalizers": ["kubernetes.io/pvc-protection"]}})
        torchrunjobs.request("DELETE", path)
        with pytest.raises(RefusedError, match="digits-snapshots is still being deleted"):
            await cluster.create(claim)


async def test_policies_come_and_go_with_the_field(torchrunjobs: Any) -> None:
    namespace = new_namespace(torchrunjobs)
    job = new_job(torchrunjobs, namespace)
    spec = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    theirs = add(torchrunjobs, namespace, "networkpolicies", "deny", spec, "/apis/networking.k8s.io/v1")
    add(torchrunjobs, namespace, "limitranges", "limits", {"limits": [{"type": "Container", "max": {"cpu": "1"}}]})
    async with adapter(torchrunjobs) as cluster:
        rules = await cluster.namespace_rules(namespace)
        assert [policy["metadata"]["name"] for policy in rules.network_policies] == ["deny"]
        assert [ranges["spec"]["limits"][0]["max"] for ranges in rules.limit_ranges] == [{"cpu": "1"}]
        policies = [m for m in prerequisites(job, PROGRAMS, "default", rules) if m["kind"] == "NetworkPolicy"]
        for policy in policies:
            await cluster.apply(policy)
        assert [policy["spec"]["policyTypes"] for policy in policies] == [["Ingress", "Egress"]] * 2
        off = job.model_copy(update={"spec": job.spec.model_copy(update={"network_policy": False})})
        foreign = {"kind": "NetworkPolicy", "metadata": {**policies[0]["metadata"], "name": "deny"}}
        for manifest in (*unwanted(off), *unwanted(off), foreign):
            await cluster.delete_owned(manifest)
        assert [torchrunjobs.request("GET", path_of(policy))[0] for policy in policies] == [404, 404]
        assert torchrunjobs.request("GET", theirs)[0] == 200


RESTRICTED = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.mark.parametrize(
    "template",
    [
        {"containers": [{"name": "trainer", "image": "train:1", "securityContext": RESTRICTED}]},
        {
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "trainer",
                    "image": "train:1",
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    ],
    ids=["container", "pod"],
)
async def test_a_restricted_namespace_accepts_the_pods(torchrunjobs: Any, template: Any) -> None:
    namespace = new_namespace(torchrunjobs, **{"pod-security.kubernetes.io/enforce": "restricted"})
    job = new_job(torchrunjobs, namespace, template={"spec": template}, files=FILES)
    async with adapter(torchrunjobs) as cluster:
        await cluster.create_pod(rendezvous_pod(job, "d1" * 32))
        await cluster.create_pod(node_pod(job, 0))


async def test_rights_of_the_trainer_are_not_those_of_the_rendezvous_pod(torchrunjobs: Any) -> None:
    """The baseline accepts it where it refuses the nodes."""
    namespace = new_namespace(torchrunjobs, **{"pod-security.kubernetes.io/enforce": "baseline"})
    context = {"capabilities": {"add": ["SYS_ADMIN"]}, "seccompProfile": {"type": "Unconfined"}}
    containers = [{"name": "trainer", "image": "train:1", "securityContext": context}]
    spec = {"hostIPC": True, "securityContext": {"seccompProfile": {"type": "Unconfined"}}, "containers": containers}
    job = new_job(torchrunjobs, namespace, template={"spec": spec})
    async with adapter(torchrunjobs) as cluster:
        await cluster.create_pod(rendezvous_pod(job, "d1" * 32))
        with pytest.raises(RefusedError, match="violates PodSecurity"):
            await cluster.create_pod(node_pod(job, 0))


LIMITS: list[dict[str, Any]] = [
    {"type": "Container", "max": {"cpu": "500m", "memory": "1Gi"}},
    {"type": "Container", "min": {"cpu": "200m", "memory": "600Mi"}},
    {"type": "Container", "maxLimitRequestRatio": {"cpu": "3", "memory": "2"}},
    {"type": "Pod", "max": {"cpu": "1", "memory": "800Mi"}, "maxLimitRequestRatio": {"memory": "1"}},
    {"type": "Container", "min": {"cpu": "4"}, "max": {"cpu": "8"}, "maxLimitRequestRatio": {"cpu": "1"}},
    {"type": "Container", "default": {"cpu": "100m"}, "defaultRequest": {"cpu": "20m"}, "max": {"cpu": "100m"}},
]


@pytest.mark.parametrize("limits", [*([item] for item in LIMITS), LIMITS[:4]])
async def test_limit_ranges_and_quotas_accept_the_rendezvous_pod(torchrunjobs: Any, limits: Any) -> None:
    namespace = new_namespace(torchrunjobs)
    for number, item in enumerate(limits):
        add(torchrunjobs, namespace, "limitranges", f"limits-{number}", {"limits": [item]})
    hard = {"requests.cpu": "8", "limits.cpu": "8", "requests.memory": "4Gi", "limits.memory": "4Gi", "pods": "2"}
    hard |= {"requests.ephemeral-storage": "1Gi", "limits.ephemeral-storage": "4Gi"}
    add_quota(torchrunjobs, namespace, hard, dict.fromkeys(hard, "0"))
    resources = {"requests": {"ephemeral-storage": "1Gi"}, "limits": {"ephemeral-storage": "1Gi"}}
    containers = [{"name": "trainer", "image": "train:1", "resources": resources}]
    job = new_job(torchrunjobs, namespace, template={"spec": {"containers": containers}})
    async with adapter(torchrunjobs) as cluster:
        rules = await cluster.namespace_rules(namespace)
        await cluster.create_pod(rendezvous_pod(job, "d1" * 32, rules))


async def test_a_quota_never_starves_the_rendezvous_pod(torchrunjobs: Any) -> None:
    namespace = new_namespace(torchrunjobs)
    job = new_job(torchrunjobs, namespace, nnodes="1:2", replicas=2)
    add_quota(torchrunjobs, namespace, {"pods": "2"}, {"pods": "0"})
    key = (namespace, "digits")
    async with adapter(torchrunjobs) as cluster, running(cluster, "pods", "nodes"):
        reconciler = Reconciler(
            cluster, FakeLinks({}, lambda: 0.0), Metrics("test"), lambda: datetime.now(UTC), PROGRAMS
        )
        await until(lambda: all(watch.synced for watch in cluster.watches if watch.kind == "pods"))
        await reconciler.reconcile(key)
        await reconciler.reconcile(key)
        await reconciler.recorder.idle()
    pods = torchrunjobs.request("GET", f"/api/v1/namespaces/{namespace}/pods")[1]["items"]
    assert len(pods) == 2
    assert "digits-rdzv" in {pod["metadata"]["name"] for pod in pods}
    status = torchrunjobs.request("GET", f"{path_of_jobs(namespace)}/digits")[1]["status"]
    accepted = next(c for c in status["conditions"] if c["type"] == "Accepted")
    assert (accepted["reason"], job.name) == ("RefusedByCluster", "digits")
    assert "exceeded quota: all, requested: pods=1, used: pods=2, limited: pods=2" in accepted["message"]
