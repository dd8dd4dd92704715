"""What a job owns besides its pods: services, the configuration maps, the snapshot claim."""

import base64
import copy
from dataclasses import dataclass
from typing import Any

from torchrun_operator.api.names import (
    API_VERSION,
    COMPONENT_OPERATOR,
    KIND,
    LABEL_COMPONENT,
    LABEL_JOB_NAME,
    LABEL_MANAGED_BY,
    LABEL_ROLE,
    MANAGED_BY,
    PORT_HTTP,
    ROLE_NODE,
    ROLE_RENDEZVOUS,
    files_name,
    rendezvous_name,
    service_name,
    snapshots_name,
)
from torchrun_operator.api.v1alpha1 import TorchrunJob

RENDEZVOUS_PROGRAM, LAUNCHER_PROGRAM = "rendezvous.pyz", "launcher.pyz"


@dataclass(frozen=True)
class Programs:
    """The programs that run in the pods of a job, as executable zip archives."""

    rendezvous: bytes
    """Runs in the rendezvous pod."""
    launcher: bytes
    """Runs in the node pods of a job with warm starts."""


def owned_metadata(job: TorchrunJob, name: str, **labels: str) -> dict[str, Any]:
    """Metadata of an object that lives and dies with the job."""
    return {
        "name": name,
        "namespace": job.metadata.namespace,
        "labels": {LABEL_JOB_NAME: job.metadata.name, LABEL_MANAGED_BY: MANAGED_BY, **labels},
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": job.metadata.name,
                "uid": job.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }


def file_key(position: int) -> str:
    """The ConfigMap key of the file at this position of spec.files: paths are no valid keys."""
    return f"file-{position}"


def prerequisites(job: TorchrunJob, programs: Programs, operator_namespace: str | None) -> list[dict[str, Any]]:
    """Return what has to be there before the job's pods: what they mount, and who may reach them."""
    found = [_network_policy(job, operator_namespace), _programs(job, programs)]
    if job.spec.files:
        found.append(_files(job))
    if job.spec.snapshots is not None and job.spec.snapshots.volume_claim_template is not None:
        found.append(_snapshot_claim(job))
    return found


def services(job: TorchrunJob) -> list[dict[str, Any]]:
    """Return the names under which the job's pods are found."""
    return [_node_service(job), _rendezvous_service(job)]


def _node_service(job: TorchrunJob) -> dict[str, Any]:
    """Headless: it gives each node pod the name `<pod>.<job>`, from before it is ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": owned_metadata(job, service_name(job.metadata.name)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {LABEL_JOB_NAME: job.metadata.name, LABEL_ROLE: ROLE_NODE},
        },
    }


def _rendezvous_service(job: TorchrunJob) -> dict[str, Any]:
    """With an address of its own: its name resolves before the pod exists, and never to the pod before."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": owned_metadata(job, rendezvous_name(job.metadata.name)),
        "spec": {
            "publishNotReadyAddresses": True,
            "selector": {LABEL_JOB_NAME: job.metadata.name, LABEL_ROLE: ROLE_RENDEZVOUS},
            "ports": [
                {"name": "store", "port": job.spec.rendezvous.port, "protocol": "TCP"},
                {"name": "http", "port": PORT_HTTP, "protocol": "TCP"},
            ],
        },
    }


def _network_policy(job: TorchrunJob, operator_namespace: str | None) -> dict[str, Any]:
    """Only the job's own pods reach the store, whose clients unpickle what is in it; the operator the control port too.

    A job that wants no policy gets one that lets everybody in: switching it off is a change like any other.
    """
    own = {"podSelector": {"matchLabels": {LABEL_JOB_NAME: job.metadata.name}}}
    operator = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": operator_namespace}},
        "podSelector": {"matchLabels": {LABEL_COMPONENT: COMPONENT_OPERATOR}},
    }
    control: dict[str, Any] = {"ports": [{"port": PORT_HTTP, "protocol": "TCP"}]}
    if operator_namespace is not None:
        control["from"] = [own, operator]
    store = {"from": [own], "ports": [{"port": job.spec.rendezvous.port, "protocol": "TCP"}]}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": owned_metadata(job, rendezvous_name(job.metadata.name)),
        "spec": {
            "podSelector": {"matchLabels": {LABEL_JOB_NAME: job.metadata.name, LABEL_ROLE: ROLE_RENDEZVOUS}},
            "policyTypes": ["Ingress"],
            "ingress": [store, control] if job.spec.network_policy else [{}],
        },
    }


def _programs(job: TorchrunJob, programs: Programs) -> dict[str, Any]:
    found = {RENDEZVOUS_PROGRAM: programs.rendezvous}
    if job.spec.elasticity.warm_start:
        found[LAUNCHER_PROGRAM] = programs.launcher
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": owned_metadata(job, rendezvous_name(job.metadata.name)),
        "binaryData": {key: base64.b64encode(program).decode() for key, program in found.items()},
    }


def _files(job: TorchrunJob) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": owned_metadata(job, files_name(job.metadata.name)),
        "data": {file_key(position): file.content for position, file in enumerate(job.spec.files)},
    }


def _snapshot_claim(job: TorchrunJob) -> dict[str, Any]:
    assert job.spec.snapshots is not None
    template = copy.deepcopy(job.spec.snapshots.volume_claim_template or {})
    given = template.get("metadata") or {}
    metadata = owned_metadata(job, snapshots_name(job.metadata.name))
    metadata["labels"] = {**(given.get("labels") or {}), **metadata["labels"]}
    if given.get("annotations"):
        metadata["annotations"] = given["annotations"]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": template.get("spec") or {},
    }
