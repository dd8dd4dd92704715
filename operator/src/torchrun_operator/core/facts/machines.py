"""The Kubernetes nodes of the job's pods: which ones are in trouble, and which of these the operator believes gone."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

_POWERED_OFF = frozenset({"node.kubernetes.io/out-of-service", "node.cloudprovider.kubernetes.io/shutdown"})
"""Taints that a person or the cloud provider sets only when nothing runs on the Kubernetes node."""
UNREACHABLE: Final = "node.kubernetes.io/unreachable"
"""The taint of a Kubernetes node whose kubelet is silent."""
_PACE_SECONDS, _SLOW_PACE_SECONDS = 10.0, 60.0
"""How long after one silent Kubernetes node the operator believes the next one gone. The slow pace is for many at once.
Kubernetes' own controller has 10 s and, in a zone where most are silent, 100 s or no end.
"""
_MANY = 3
"""One in so many Kubernetes nodes is many, if it is more than one."""


class Silence(NamedTuple):
    """A Kubernetes node whose kubelet is silent."""

    zone: str
    since: float
    """When its Ready condition became Unknown; seconds, by the clock of Kubernetes' node controller."""
    seen: float
    """For how many seconds this operator has known it, by its own clock."""


class Machines(NamedTuple):
    """What is known of Kubernetes nodes."""

    known: Mapping[str, Mapping[str, Any] | None] = {}
    """By name. None: removed from the cluster. A Kubernetes node that is unknown or forbidden is missing."""
    any_ready: bool = False
    """At least one Kubernetes node of the whole cluster is ready."""
    zones: Mapping[str, int] = {}
    """The number of Kubernetes nodes in each zone of the whole cluster."""
    silent: Mapping[str, Silence] = {}
    """The silent Kubernetes nodes of the whole cluster, by name."""


@dataclass(frozen=True)
class Trouble:
    """Why the pods of a Kubernetes node are lost."""

    what: str
    """What happened to it, for people."""
    certain: bool = False
    """Nothing runs there, even if the rendezvous host still receives heartbeats."""


def trouble(name: str, machine: Mapping[str, Any] | None) -> Trouble | None:
    """Return the trouble of a Kubernetes node, if it may end its pods. ``machine`` None: it was removed.

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


def believed_in(machines: Machines) -> dict[str, float]:
    """Return the silent Kubernetes nodes that the operator does not believe gone yet, and the seconds until it does.

    Kubernetes nodes that fall silent together are believed gone one after the other. If a third of a zone or of the
    cluster is silent, it is more likely that the API server is cut off from them, and the pace is slow. The times of
    silence come from one clock, and only their differences matter: the newest one tells the present.
    """
    if not machines.silent:
        return {}
    present = max(silence.since + silence.seen for silence in machines.silent.values())
    pace = _SLOW_PACE_SECONDS if _many_silent(machines) else _PACE_SECONDS
    waits: dict[str, float] = {}
    at = -math.inf
    for name, silence in sorted(machines.silent.items(), key=lambda item: (item[1].since, item[0])):
        at = max(silence.since, at + pace)
        waits[name] = at - present
    return {name: wait for name, wait in waits.items() if wait > 0}


def _many_silent(machines: Machines) -> bool:
    silent = Counter(silence.zone for silence in machines.silent.values())
    pairs = [
        (silent.total(), sum(machines.zones.values())),
        *((n, machines.zones.get(z, n)) for z, n in silent.items()),
    ]
    return any(count > 1 and _MANY * count >= all_ for count, all_ in pairs)


def names(pods: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Return the names of the Kubernetes nodes that these pods are bound to."""
    return frozenset(pod["spec"]["nodeName"] for pod in pods if pod["spec"].get("nodeName"))
