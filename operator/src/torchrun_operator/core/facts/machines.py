"""What the API server says about the Kubernetes nodes of the job's pods: which are given up, and why."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

_POWERED_OFF = frozenset({"node.kubernetes.io/out-of-service", "node.cloudprovider.kubernetes.io/shutdown"})
"""Taints that a person or the cloud sets only when nothing runs on the Kubernetes node any more."""


class Machines(NamedTuple):
    """What is known of Kubernetes nodes."""

    known: Mapping[str, Mapping[str, Any] | None] = {}
    """By name. None: removed from the cluster. A name is missing if nothing is known of it, or it may not be read."""
    any_ready: bool = False
    """At least one Kubernetes node of the whole cluster is ready."""


@dataclass(frozen=True)
class Trouble:
    """Why the pods of a Kubernetes node are given up."""

    what: str
    """What happened to it, for people."""
    certain: bool = False
    """Nothing runs there any more, even if the rendezvous host still hears it."""


def trouble(name: str, machine: Mapping[str, Any] | None) -> Trouble | None:
    """Return what is wrong with a Kubernetes node, if that ends its pods. None: it was removed from the cluster.

    A Ready condition that is False does not end pods: the kubelet is alive and reports what becomes of them. Cordons
    and other taints do not either: the pods that they concern are evicted, and the eviction is seen.
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

    Nothing is concluded while no Kubernetes node of the cluster is ready: then the API server is cut off from all of
    them, rather than all dead at once; and a new pod could run nowhere.
    """
    if not machines.any_ready:
        return {}
    found = {name: trouble(name, machine) for name, machine in machines.known.items()}
    return {name: what for name, what in found.items() if what is not None}


def names(pods: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Return the names of the Kubernetes nodes that these pods are bound to."""
    return frozenset(pod["spec"]["nodeName"] for pod in pods if pod["spec"].get("nodeName"))
