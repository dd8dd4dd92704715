"""The rendezvous pod: the store of torchrun and the program that decides on rounds."""

import copy
from collections.abc import Iterable
from typing import Any, Final

from torchrun_operator.api.names import (
    ANNOTATION_TOKEN_DIGEST,
    GROUP,
    LABEL_ROLE,
    PORT_HTTP,
    RENDEZVOUS_CONTAINER,
    ROLE_RENDEZVOUS,
    rendezvous_name,
)
from torchrun_operator.api.v1alpha1 import TorchrunJob
from torchrun_operator.render.catalog import PARTS
from torchrun_operator.render.metadata import owned_metadata
from torchrun_operator.render.namespace import NO_RULES, NamespaceRules
from torchrun_operator.render.part import Manifest, total
from torchrun_operator.render.programs import PROGRAMS_DIRECTORY, RENDEZVOUS_PROGRAM

_RESOURCES: Final = {
    "requests": {"cpu": "50m", "memory": "512Mi"},
    # Never reached. A quota on limits rejects pods without limits.
    "limits": {"cpu": "2", "memory": "2Gi"},
}
_TEMPLATE_FIELDS: Final = (
    "imagePullSecrets",
    "nodeSelector",
    "priorityClassName",
    "runtimeClassName",
    "securityContext",
    "serviceAccountName",
    "tolerations",
)
"""Copied from the user's template: where the pod may run, and as which user. Not copied: what only nodes need,
such as affinity, schedulerName and volumes."""


def rendezvous_pod(job: TorchrunJob, token_digest: str, rules: NamespaceRules = NO_RULES) -> Manifest:
    """Return the pod with the store: the job's own image (same torch, same wire format), no accelerator.

    It has the labels and annotations of the template, which queues, meshes and cost reports use. It lacks the labels
    that keep the nodes apart from each other: they would keep the nodes away from this pod too.
    """
    piece = total(part.rendezvous(job) for part in PARTS)
    spec = {
        **_chosen(job.spec.template["spec"], _TEMPLATE_FIELDS),
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 5,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "containers": [_container(job, token_digest)],
    }
    piece.add_to(spec, spec["containers"][0])
    spec["containers"][0].update(_chosen(job.spec.trainer, ("imagePullPolicy", "securityContext")))
    given = job.spec.template.get("metadata") or {}
    metadata = owned_metadata(
        job,
        rendezvous_name(job.metadata.name),
        labels={**piece.labels, LABEL_ROLE: ROLE_RENDEZVOUS},
        annotations={**piece.annotations, ANNOTATION_TOKEN_DIGEST: token_digest},
        given={**given, "labels": _shared_labels(job)},
    )
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _chosen(source: Manifest, names: Iterable[str]) -> Manifest:
    return {name: copy.deepcopy(source[name]) for name in names if name in source}


def _container(job: TorchrunJob, token_digest: str) -> Manifest:
    return {
        "name": RENDEZVOUS_CONTAINER,
        "image": job.spec.trainer["image"],
        "command": ["python3", f"{PROGRAMS_DIRECTORY}/{RENDEZVOUS_PROGRAM}"],
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
        "resources": copy.deepcopy(_RESOURCES),
    }


def _shared_labels(job: TorchrunJob) -> dict[str, str]:
    """Return the labels of the template except those of the operator and those that keep nodes apart."""
    labels = (job.spec.template.get("metadata") or {}).get("labels") or {}
    apart = _keeping_apart(job.spec.template["spec"])
    return {key: value for key, value in labels.items() if not key.startswith(f"{GROUP}/") and key not in apart}


def _keeping_apart(pod_spec: dict[str, Any]) -> set[str]:
    """Return the keys of the labels that keep pods apart: by anti-affinity and topology spread."""
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
