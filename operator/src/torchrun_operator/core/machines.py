"""What the cluster says of the machines that pods run on: when to give one up, and why. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

_POWERED_OFF = frozenset({"node.kubernetes.io/out-of-service", "node.cloudprovider.kubernetes.io/shutdown"})
"""Taints that a person or the cloud sets only when nothing runs on the machine any more."""


class Machines(NamedTuple):
    """What is known of Kubernetes nodes."""

    known: Mapping[str, Mapping[str, Any] | None] = {}
    """By name. None: removed from the cluster. A name is missing if nothing is known of it, or it may not be read."""
    any_ready: bool = False
    """At least one Kubernetes node of the whole cluster is ready."""


@dataclass(frozen=True)
class Trouble:
    """Why what runs on a machine is not counted on."""

    what: str
    """For people: what happened to it."""
    certain: bool = False
    """Nothing runs there any more, whatever is heard."""


def trouble(name: str, machine: Mapping[str, Any] | None) -> Trouble | None:
    """Return what is wrong with a machine (None: it has been removed from the cluster), if that ends its pods.

    A machine whose Ready condition is False is none of these: its kubelet is there to say so, and says what becomes of
    its pods. Nor is one that is cordoned, or tainted otherwise: whom that concerns is evicted, and that is seen.
    """
    if machine is None:
        return Trouble(f"machine {name} was removed from the cluster")
    for taint in (machine.get("spec") or {}).get("taints") or ():
        if taint.get("key") in _POWERED_OFF:
            return Trouble(f"machine {name} is off: tainted {taint['key']}", certain=True)
    for condition in (machine.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "Ready" and condition.get("status") == "Unknown":
            return Trouble(f"machine {name} is not ready: its kubelet is silent")
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
    """Return the names of the machines that these pods have been given."""
    return frozenset(pod["spec"]["nodeName"] for pod in pods if pod["spec"].get("nodeName"))
