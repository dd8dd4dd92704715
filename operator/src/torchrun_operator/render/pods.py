"""The job's pods: one per node, made from the user's template, and the one that hosts the rendezvous."""

import copy
from pathlib import PurePosixPath
from typing import Any

from torchrun_operator.api.names import (
    ANNOTATION_TOKEN_DIGEST,
    GROUP,
    LABEL_NODE_INDEX,
    LABEL_ROLE,
    PORT_HTTP,
    ROLE_NODE,
    ROLE_RENDEZVOUS,
    TRAINER_CONTAINER,
    files_name,
    node_name,
    rendezvous_name,
    service_name,
    snapshots_name,
)
from torchrun_operator.api.torchrun import program_of
from torchrun_operator.api.v1alpha1 import TorchrunJob
from torchrun_operator.render.env import PROGRAM_DIRECTORY, WARM_PYTHON, trainer_env
from torchrun_operator.render.objects import LAUNCHER_PROGRAM, RENDEZVOUS_PROGRAM, file_key, owned_metadata

_FILES_VOLUME = "torchrun-files"
_SNAPSHOTS_VOLUME = "torchrun-snapshots"
_PROGRAM_VOLUME = "torchrun-operator"
_EXECUTABLE = 0o555
_RENDEZVOUS_RESOURCES = {
    "requests": {"cpu": "50m", "memory": "512Mi"},
    # Never reached: a quota on limits refuses pods without any.
    "limits": {"cpu": "2", "memory": "2Gi"},
}
_SCHEDULING_FIELDS = (
    "imagePullSecrets",
    "nodeSelector",
    "priorityClassName",
    "runtimeClassName",
    "securityContext",
    "serviceAccountName",
    "tolerations",
)
"""What the rendezvous pod takes from the user's template: where it may run and as whom. Not what makes a node a
training node (resources, affinity, schedulerName, volumes)."""


def node_pod(job: TorchrunJob, index: int) -> dict[str, Any]:
    """Return the pod of node `index`. The template is the user's; what the wiring needs is added, never replaced."""
    template = copy.deepcopy(dict(job.spec.template))
    name = node_name(job.metadata.name, index)
    labels = {LABEL_ROLE: ROLE_NODE, LABEL_NODE_INDEX: str(index)}
    metadata = owned_metadata(job, name, **labels)
    given = template.get("metadata") or {}
    metadata["labels"] = {**(given.get("labels") or {}), **metadata["labels"]}
    if given.get("annotations"):
        metadata["annotations"] = given["annotations"]
    spec = template["spec"]
    spec["restartPolicy"] = "Never"
    spec["hostname"] = name
    spec["subdomain"] = service_name(job.metadata.name)
    trainer = next(container for container in spec["containers"] if container["name"] == TRAINER_CONTAINER)
    trainer["env"] = [*trainer_env(job, index), *(trainer.get("env") or [])]
    if job.spec.nccl.config_map_ref is not None:
        reference = {"configMapRef": {"name": job.spec.nccl.config_map_ref.name}}
        trainer["envFrom"] = [reference, *(trainer.get("envFrom") or [])]
    _mount(job, spec, trainer)
    _load_early(job, trainer)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _mount(job: TorchrunJob, spec: dict[str, Any], trainer: dict[str, Any]) -> None:
    volumes, mounts = [*(spec.get("volumes") or [])], [*(trainer.get("volumeMounts") or [])]
    if job.spec.files:
        volumes.append({"name": _FILES_VOLUME, "configMap": {"name": files_name(job.metadata.name)}})
        mounts.extend(
            # One by one: a directory mount would hide what the image has beside the file.
            {"name": _FILES_VOLUME, "mountPath": file.path, "subPath": file_key(position), "readOnly": True}
            for position, file in enumerate(job.spec.files)
        )
    if job.spec.snapshots is not None:
        claim = job.spec.snapshots.claim_name or snapshots_name(job.metadata.name)
        volumes.append({"name": _SNAPSHOTS_VOLUME, "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": _SNAPSHOTS_VOLUME, "mountPath": job.spec.snapshots.mount_path})
    if job.spec.elasticity.warm_start:
        volumes.append(_warm_volume(job))
        mounts.append({"name": _PROGRAM_VOLUME, "mountPath": PROGRAM_DIRECTORY, "readOnly": True})
    if volumes:
        spec["volumes"] = volumes
    if mounts:
        trainer["volumeMounts"] = mounts


def _warm_volume(job: TorchrunJob) -> dict[str, Any]:
    items = [{"key": LAUNCHER_PROGRAM, "path": PurePosixPath(WARM_PYTHON).name, "mode": _EXECUTABLE}]
    return {"name": _PROGRAM_VOLUME, "configMap": {"name": rendezvous_name(job.metadata.name), "items": items}}


def _load_early(job: TorchrunJob, trainer: dict[str, Any]) -> None:
    """Have torch loaded when the first workers start, which in a spare is when it takes over.

    Only beside torchrun itself: a shell line may install packages first. A hook of the user's stays.
    """
    program = program_of([*(trainer.get("command") or []), *(trainer.get("args") or [])])
    lifecycle = trainer.get("lifecycle") or {}
    if job.spec.elasticity.warm_start and program and "postStart" not in lifecycle:
        command = ["python3", WARM_PYTHON, "--start", program]
        trainer["lifecycle"] = {**lifecycle, "postStart": {"exec": {"command": command}}}


def rendezvous_pod(job: TorchrunJob, token_digest: str) -> dict[str, Any]:
    """Return the pod that hosts the store: the job's own image (same torch, same wire format), no accelerator.

    It carries the template's labels and annotations: queues, meshes and bills have to know whose it is. Not the labels
    by which the template keeps its nodes apart: they would keep them off the machine of this pod as well.
    """
    template_spec = job.spec.template["spec"]
    trainer = next(c for c in template_spec["containers"] if c["name"] == TRAINER_CONTAINER)
    metadata = owned_metadata(job, rendezvous_name(job.metadata.name), **{LABEL_ROLE: ROLE_RENDEZVOUS})
    given = job.spec.template.get("metadata") or {}
    apart = _keeping_apart(template_spec)
    labels = {
        key: value
        for key, value in (given.get("labels") or {}).items()
        if not key.startswith(f"{GROUP}/") and key not in apart
    }
    metadata["labels"] = {**labels, **metadata["labels"]}
    metadata["annotations"] = {**(given.get("annotations") or {}), ANNOTATION_TOKEN_DIGEST: token_digest}
    container = {
        "name": "rendezvous",
        "image": trainer["image"],
        "command": ["python3", f"{PROGRAM_DIRECTORY}/{RENDEZVOUS_PROGRAM}"],
        "env": [
            {"name": "RDZV_ID", "value": job.metadata.uid},
            {"name": "RDZV_PORT", "value": str(job.spec.rendezvous.port)},
            {"name": "RDZV_HTTP_PORT", "value": str(PORT_HTTP)},
            {"name": "RDZV_TOKEN_SHA256", "value": token_digest},
        ],
        "ports": [
            {"name": "store", "containerPort": job.spec.rendezvous.port, "protocol": "TCP"},
            {"name": "http", "containerPort": PORT_HTTP, "protocol": "TCP"},
        ],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1, "failureThreshold": 5},
        "resources": copy.deepcopy(_RENDEZVOUS_RESOURCES),
        "volumeMounts": [{"name": _PROGRAM_VOLUME, "mountPath": PROGRAM_DIRECTORY, "readOnly": True}],
    }
    for field in ("imagePullPolicy", "securityContext"):
        if field in trainer:
            container[field] = copy.deepcopy(trainer[field])
    spec = {
        **{field: copy.deepcopy(template_spec[field]) for field in _SCHEDULING_FIELDS if field in template_spec},
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 5,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "containers": [container],
        "volumes": [{"name": _PROGRAM_VOLUME, "configMap": {"name": rendezvous_name(job.metadata.name)}}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _keeping_apart(pod_spec: dict[str, Any]) -> set[str]:
    """Return the keys of the labels by which a pod is kept from others: anti-affinity and topology spread."""
    rules = (pod_spec.get("affinity") or {}).get("podAntiAffinity") or {}
    terms = [
        *(rules.get("requiredDuringSchedulingIgnoredDuringExecution") or []),
        *(
            preferred.get("podAffinityTerm") or {}
            for preferred in rules.get("preferredDuringSchedulingIgnoredDuringExecution") or []
        ),
        *(pod_spec.get("topologySpreadConstraints") or []),
    ]
    keys: set[str] = set()
    for term in terms:
        selector = term.get("labelSelector") or {}
        keys |= set(selector.get("matchLabels") or {}) | set(term.get("matchLabelKeys") or [])
        keys |= {expression["key"] for expression in selector.get("matchExpressions") or []}
    return keys
