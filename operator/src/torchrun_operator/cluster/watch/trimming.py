"""What the watch of pods keeps of a pod: what facts read (core/facts/pods.py), and no text of any length. Pure.

A whole pod takes 40 KB of memory, and a trimmed one 5 KB. The names in the tables below are shared by all kept pods.
"""

from collections.abc import Mapping
from typing import Any

from torchrun_operator.api.names import GROUP
from torchrun_operator.cluster.port import Manifest

_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "finalizers",
)
_OWNER = ("kind", "name", "uid", "controller")
_SPEC = ("nodeName", "activeDeadlineSeconds")
_STATUS = ("phase", "reason", "message", "podIP", "startTime")
_CONDITION = ("type", "status", "reason", "message", "lastTransitionTime")
_CONTAINER = ("name", "image", "ready", "started", "restartCount", "state", "lastState")
_CONTAINERS = ("initContainerStatuses", "containerStatuses")
_MOST_CHARACTERS = 4096
"""The maximum of a termination message. Only texts that no program of Kubernetes writes are longer."""
_MOST_ITEMS = 256


def trimmed(pod: Mapping[str, Any]) -> Manifest:
    """Return the kept part of a pod."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    kept: dict[str, Any] = _some(metadata, _METADATA)
    for name in ("labels", "annotations"):
        if metadata.get(name):
            kept[name] = {key: _short(value) for key, value in metadata[name].items() if key.startswith(f"{GROUP}/")}
    if metadata.get("ownerReferences"):
        kept["ownerReferences"] = _each(metadata["ownerReferences"], _OWNER)
    seen: dict[str, Any] = _some(status, _STATUS)
    if status.get("conditions"):
        seen["conditions"] = _each(status["conditions"], _CONDITION)
    for name in _CONTAINERS:
        if status.get(name):
            seen[name] = _each(status[name], _CONTAINER)
    return {"metadata": kept, "spec": _some(pod.get("spec") or {}, _SPEC), "status": seen}


def _some(thing: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: _short(thing[name]) for name in names if thing.get(name) is not None}


def _each(things: list[Mapping[str, Any]], names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [_some(thing, names) for thing in things[:_MOST_ITEMS]]


def _short(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return the value with its texts cut."""
    if isinstance(value, str):
        return value[:_MOST_CHARACTERS]
    if isinstance(value, dict):
        return {name: _short(inner) for name, inner in value.items()}
    return [_short(inner) for inner in value[:_MOST_ITEMS]] if isinstance(value, list) else value
