"""Where the rendezvous pod may run: where the image of the nodes can run, but not only beside the nodes."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Final

Manifest = dict[str, Any]

_MACHINE: Final = "kubernetes.io/hostname"
_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED: Final = "preferredDuringSchedulingIgnoredDuringExecution"


def placement(pod_spec: Mapping[str, Any]) -> Manifest:
    """Return the fields of a pod's spec that place the rendezvous pod of nodes with that spec.

    Labels of Kubernetes nodes tell the architecture and the pool, where the image runs and may be pulled: they are
    kept. The name of a Kubernetes node, which may have no room left beside a node, becomes a preference. Affinity to
    pods, and topology spread, are about the nodes.
    """
    fields: Manifest = {}
    selector = dict(pod_spec.get("nodeSelector") or {})
    pins = [_in(selector.pop(_MACHINE))] if _MACHINE in selector else []
    if selector:
        fields["nodeSelector"] = selector
    terms, pinned_terms = _terms(pod_spec)
    preferences = [*([{"matchExpressions": pins}] if pins else []), *pinned_terms]
    affinity: Manifest = {}
    if terms:
        affinity[_REQUIRED] = {"nodeSelectorTerms": terms}
    if preferences:
        affinity[_PREFERRED] = [{"weight": 100, "preference": preference} for preference in preferences]
    if affinity:
        fields["affinity"] = {"nodeAffinity": affinity}
    if tolerations := _tolerations(pod_spec):
        fields["tolerations"] = tolerations
    return fields


def _terms(pod_spec: Mapping[str, Any]) -> tuple[list[Manifest], list[Manifest]]:
    """Return the required terms of the node affinity without names of Kubernetes nodes, and the names as terms.

    The terms are alternatives. If one consisted of names only, the pod may run everywhere.
    """
    affinity = (pod_spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = (affinity.get(_REQUIRED) or {}).get("nodeSelectorTerms") or []
    kept, names = [], []
    for term in required:
        expressions, fields = term.get("matchExpressions") or [], term.get("matchFields") or []
        others = {
            "matchExpressions": [each for each in expressions if not _names_machine(each)],
            "matchFields": [each for each in fields if each.get("operator") != "In"],
        }
        own = {
            "matchExpressions": [each for each in expressions if _names_machine(each)],
            "matchFields": [each for each in fields if each.get("operator") == "In"],
        }
        kept.append(_filled(others))
        names.append(_filled(own))
    return (kept if all(kept) else []), [term for term in names if term]


def _filled(term: Mapping[str, list[Any]]) -> Manifest:
    return {key: copy.deepcopy(value) for key, value in term.items() if value}


def _names_machine(expression: Mapping[str, Any]) -> bool:
    return expression.get("key") == _MACHINE and expression.get("operator") == "In"


def _in(machine: str) -> Manifest:
    return {"key": _MACHINE, "operator": "In", "values": [machine]}


def _tolerations(pod_spec: Mapping[str, Any]) -> list[Manifest]:
    """Return the tolerations of the nodes, and those that Kubernetes adds to pods that request a device."""
    given: list[Manifest] = copy.deepcopy(pod_spec.get("tolerations") or [])
    devices = [{"key": name, "operator": "Exists", "effect": "NoSchedule"} for name in _devices(pod_spec)]
    return [*given, *(toleration for toleration in devices if toleration not in given)]


def _devices(pod_spec: Mapping[str, Any]) -> Iterable[str]:
    """Return the extended resources that containers request, such as nvidia.com/gpu."""
    containers = [*(pod_spec.get("initContainers") or ()), *(pod_spec.get("containers") or ())]
    found = {
        name
        for container in containers
        for kind in ("limits", "requests")
        for name in (container.get("resources") or {}).get(kind) or {}
    }
    return sorted(name for name in found if "/" in name and not name.split("/")[0].endswith("kubernetes.io"))
