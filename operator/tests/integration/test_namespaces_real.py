"""Namespaces with rules of their own on a real API server: quotas, limits, PodSecurity, policies."""

import itertools
from typing import Any

import pytest

from builders import job_manifest
from real_cluster import adapter, path_of, version
from torchrun_operator.api.v1alpha1 import TorchrunJob, job_of
from torchrun_operator.cluster.port import RefusedError
from torchrun_operator.render.objects import claims, prerequisites, services, unwanted
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
    path = f"/apis/torchrun.dev/v1alpha1/namespaces/{namespace}/torchrunjobs"
    status, answer = server.request("POST", path, manifest)
    assert status == 201, answer
    return job_of(answer)


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
        assert [policy["spec"]["policyTypes"] for policy in policies] == [["Ingress"], ["Ingress", "Egress"]]
        off = job.model_copy(update={"spec": job.spec.model_copy(update={"network_policy": False})})
        foreign = {"kind": "NetworkPolicy", "metadata": {**policies[0]["metadata"], "name": "deny"}}
        for manifest in (*unwanted(off), *unwanted(off), foreign):
            await cluster.delete_owned(manifest)
        assert [torchrunjobs.request("GET", path_of(policy))[0] for policy in policies] == [404, 404]
        assert torchrunjobs.request("GET", theirs)[0] == 200
