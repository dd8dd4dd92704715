"""The watch of the cluster's Kubernetes nodes."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from torchrun_operator.cluster.port import ClusterError, Manifest
from torchrun_operator.cluster.watch.collection import Api, CollectionWatch
from torchrun_operator.core.facts.machines import Machines, Silence

_REMEMBERED = 10_000
_ZONE = ("topology.kubernetes.io/region", "topology.kubernetes.io/zone")


class MachineWatch(CollectionWatch):
    """Keeps the conditions and taints of Kubernetes nodes that show whether their pods are alive.

    The operator also works without the right to read Kubernetes nodes. It then detects the loss of one only when
    Kubernetes deletes its pods.
    """

    forbidden_retry_seconds = 300.0

    def __init__(self, api: Api, changed: Callable[[str], None]) -> None:
        """Calls `changed` with the name of each Kubernetes node whose kept fields have changed."""
        super().__init__("nodes", "", api, "api/v1/nodes", {})
        self._changed = changed
        self._machines: dict[str, Manifest] = {}
        self._ready = 0
        """How many are ready."""
        self._zones: Counter[str] = Counter()
        self._silent: dict[str, tuple[str, float, float]] = {}
        """Zone, since when by the clock of the cluster, and since when by time.monotonic, of each silent one."""
        self._removed: dict[str, None] = {}
        """Names of all Kubernetes nodes seen so far. An unknown name may belong to a new one."""

    async def machines(self, names: Collection[str]) -> Machines:
        """Return what is known of these Kubernetes nodes; nothing while they are forbidden. Raises ClusterError."""
        try:
            await self.wait_synced()
        except ClusterError:
            if self.forbidden is None:
                raise
        known: dict[str, Manifest | None] = {name: None for name in names if name in self._removed}
        known |= {name: self._machines[name] for name in names if name in self._machines}
        now = time.monotonic()
        silent = {name: Silence(zone, since, now - at) for name, (zone, since, at) in self._silent.items()}
        return Machines(known, self._ready > 0, dict(self._zones), silent)

    def failed(self, error: ClusterError) -> None:
        """See Watch.failed. If the operator has lost the right to read, forget everything: it is out of date."""
        super().failed(error)
        if self.forbidden is not None:
            self._replace(())
            self._removed.clear()

    def _kept(self, thing: Mapping[str, Any]) -> Manifest:
        return {"metadata": {"name": thing["metadata"]["name"]}, **_health(thing)}

    def _replace(self, kept: Sequence[Manifest]) -> None:
        for name in self._machines.keys() - {machine["metadata"]["name"] for machine in kept}:
            self._take_away(name)
        for machine in kept:
            self._put(machine)

    def _put(self, kept: Manifest) -> None:
        name = kept["metadata"]["name"]
        if self._machines.get(name) == kept:
            return
        self._count(name, -1)
        self._machines[name] = kept
        self._count(name, 1)
        self._removed.pop(name, None)
        if "silentSince" not in kept:
            self._silent.pop(name, None)
        elif name not in self._silent:
            self._silent[name] = kept["zone"], kept["silentSince"], time.monotonic()
        self._changed(name)

    def _remove(self, thing: Mapping[str, Any]) -> None:
        self._take_away(thing["metadata"]["name"])

    def _take_away(self, name: str) -> None:
        if name in self._machines:
            self._count(name, -1)
            del self._machines[name]
            self._silent.pop(name, None)
            self._forget(name)
            self._changed(name)

    def _count(self, name: str, change: int) -> None:
        """Keep the counts, so that a pass does not read every Kubernetes node of the cluster."""
        machine = self._machines.get(name)
        if machine is not None:
            self._ready += change * _ready(machine)
            self._zones[machine["zone"]] += change
            self._zones += Counter()  # drops zones without Kubernetes nodes

    def _forget(self, name: str) -> None:
        self._removed[name] = None
        if len(self._removed) > _REMEMBERED:
            del self._removed[next(iter(self._removed))]


def _health(machine: Mapping[str, Any]) -> Manifest:
    """Keep the zone, taints and the Ready condition, of its times only the start of a silence.

    So a heartbeat of the kubelet is not a change.
    """
    found = _ready_condition(machine)
    ready = [{"type": "Ready", "status": found.get("status"), "reason": found.get("reason")}] if found else []
    taints = [
        {"key": taint.get("key"), "effect": taint.get("effect")}
        for taint in (machine.get("spec") or {}).get("taints") or ()
    ]
    since = _silent_since(machine)
    return {
        "zone": _zone(machine),
        **({"silentSince": since} if since is not None else {}),
        "spec": {"taints": taints},
        "status": {"conditions": ready},
    }


def _zone(machine: Mapping[str, Any]) -> str:
    labels = machine["metadata"].get("labels") or {}
    return "/".join(str(labels.get(key, "")) for key in _ZONE)


def _silent_since(machine: Mapping[str, Any]) -> float | None:
    """Return since when the kubelet is silent, by the clock of the node controller. None: it is not silent."""
    ready = _ready_condition(machine)
    if ready is None or ready.get("status") != "Unknown":
        return None
    since = ready.get("lastTransitionTime")
    return datetime.fromisoformat(since).timestamp() if since else 0.0


def _ready_condition(machine: Mapping[str, Any]) -> Mapping[str, Any] | None:
    conditions = (machine.get("status") or {}).get("conditions") or ()
    return next((c for c in conditions if c.get("type") == "Ready"), None)


def _ready(machine: Manifest) -> bool:
    return any(condition["status"] == "True" for condition in machine["status"]["conditions"])
