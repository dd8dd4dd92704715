"""What a job owns besides its pods: services, the configuration maps, the snapshot claim."""

import copy
from typing import Any

from torchrun_operator.api.names import (
    API_VERSION,
    KIND,
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

HOST_PROGRAM = "host.py"


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


def mounted(job: TorchrunJob, host_source: str) -> list[dict[str, Any]]:
    """Return what the job's pods mount."""
    found = [_rendezvous_program(job, host_source)]
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


def _rendezvous_program(job: TorchrunJob, host_source: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": owned_metadata(job, rendezvous_name(job.metadata.name)),
        "data": {HOST_PROGRAM: host_source},
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
