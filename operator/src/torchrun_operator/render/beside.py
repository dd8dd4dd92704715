"""What pods beside the nodes take from the template of the nodes."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Final

from torchrun_operator.api.names import GROUP
from torchrun_operator.api.v1alpha1 import TorchrunJob

Manifest = dict[str, Any]

POD_FIELDS: Final = ("imagePullSecrets", "priorityClassName", "runtimeClassName", "serviceAccountName")
"""Taken from the template of the nodes. Not taken: what only nodes need, such as schedulerName and volumes, and
annotations, which instruct injectors and agents about the trainer."""
_POD_SECURITY: Final = ("runAsUser", "runAsGroup", "runAsNonRoot", "fsGroup", "supplementalGroups")
_CONTAINER_SECURITY: Final = ("runAsUser", "runAsGroup", "runAsNonRoot", "readOnlyRootFilesystem")
LABELS: Final = {"sidecar.istio.io/inject": "false"}
ANNOTATIONS: Final = {
    # Autoscalers and consolidators would restart the whole job to save a Kubernetes node. A drain may.
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
    # Agents speak torchrun's own protocol to it, which meshes break.
    "sidecar.istio.io/inject": "false",
    "linkerd.io/inject": "disabled",
}


def chosen(source: Mapping[str, Any], names: Iterable[str]) -> Manifest:
    """Return copies of the fields with these names, as far as they are set."""
    return {name: copy.deepcopy(source[name]) for name in names if name in source}


def pod_security(nodes: Mapping[str, Any]) -> Manifest:
    """Return the field securityContext of a pod: the user that the nodes run as."""
    context = chosen(nodes.get("securityContext") or {}, _POD_SECURITY)
    return {"securityContext": context} if context else {}


def container_security(trainer: Mapping[str, Any]) -> Manifest:
    """Return the security context of a container: the user of the trainer, and never more rights than it needs."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
        **chosen(trainer.get("securityContext") or {}, _CONTAINER_SECURITY),
    }


def shared_labels(job: TorchrunJob) -> dict[str, str]:
    """Return the labels of the template except those of the operator and those that keep nodes apart.

    Queues and cost reports use them. Those that keep the nodes apart would keep the nodes away from this pod too.
    """
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
