"""The Kubernetes nodes of the job's pods: which ones are lost, and why."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

_POWERED_OFF = frozenset({"node.kubernetes.io/out-of-service", "node.cloudprovider.kubernetes.io/shutdown"})
"""Taints that a person or the cloud provider sets only when nothing runs on the Kubernetes node."""


class Machines(NamedTuple):
    """What is known of Kubernetes nodes."""

    known: Mapping[str, Mapping[str, Any] | None] = {}
    """By name. None: removed from the cluster. A Kubernetes node that is unknown or forbidden is missing."""
    any_ready: bool = False
    """At least one Kubernetes node of the whole cluster is ready."""


@dataclass(frozen=True)
class Trouble:
    """Why the pods of a Kubernetes node are lost."""

    what: str
    """What happened to it, for people."""
    certain: bool = False
    """Nothing runs there, even if the rendezvous host still receives heartbeats."""


def trouble(name: str, machine: Mapping[str, Any] | None) -> Trouble | None:
    """Return the trouble of a Kubernetes node, if it ends its pods. ``node`` None: it was removed from the cluster.

    A Ready condition that is False does not end pods: the kubelet is alive and reports their state. Cordons and other
    taints do not either: Kubernetes evicts the pods that they affect, and the pods show the eviction.
    """
    if machine is None:
        return Trouble(f"Kubernetes node {name} was removed from the cluster")
    for taint in (machine.get("spec") or {}).get("taints") or ():
        if taint.get("key") in _POWERED_OFF:
            return Trouble(f"Kubernetes node {name} is off: it has the taint {taint['key']}", certain=True)
    for condition in (machine.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "Ready" and condition.get("status") == "Unknown":
            return Trouble(f"Kubernetes node {name} is not ready: its kubelet is silent")
    return None


def troubles(machines: Machines) -> dict[str, Trouble]:
    """Return the Kubernetes nodes in trouble, by name.

    Returns none while no Kubernetes node of the cluster is ready. It is more likely that the API server cannot reach
    them than that all failed at once, and no new pod could run.
    """
    if not machines.any_ready:
        return {}
    found = {name: trouble(name, machine) for name, machine in machines.known.items()}
    return {name: what for name, what in found.items() if what is not None}


def names(pods: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Return the names of the Kubernetes nodes that these pods are bound to."""
    return frozenset(pod["spec"]["nodeName"] for pod in pods if pod["spec"].get("nodeName"))
