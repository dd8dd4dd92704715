"""The watch of the cluster's Kubernetes nodes."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from torchrun_operator.cluster.port import ClusterError, Manifest
from torchrun_operator.cluster.watch.collection import Api, CollectionWatch
from torchrun_operator.core.facts.machines import Machines

_REMEMBERED = 10_000


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
        return Machines(known, any(_ready(machine) for machine in self._machines.values()))

    def failed(self, error: ClusterError) -> None:
        """See Watch.failed. If the operator has lost the right to read, forget everything: it is out of date."""
        super().failed(error)
        if self.forbidden is not None:
            self._replace(())
            self._removed.clear()

    def _kept(self, thing: Mapping[str, Any]) -> Manifest:
        return {"metadata": {"name": thing["metadata"]["name"]}, **_health(thing)}

    def _replace(self, kept: Sequence[Manifest]) -> None:
        before, now = self._machines, {machine["metadata"]["name"]: machine for machine in kept}
        self._machines = now
        for name in now:
            self._removed.pop(name, None)
        for name in before.keys() - now.keys():
            self._forget(name)
        for name in before.keys() | now.keys():
            if before.get(name) != now.get(name):
                self._changed(name)

    def _put(self, kept: Manifest) -> None:
        name = kept["metadata"]["name"]
        if self._machines.get(name) != kept:
            self._machines[name] = kept
            self._removed.pop(name, None)
            self._changed(name)

    def _remove(self, thing: Mapping[str, Any]) -> None:
        name = thing["metadata"]["name"]
        if self._machines.pop(name, None) is not None:
            self._forget(name)
            self._changed(name)

    def _forget(self, name: str) -> None:
        self._removed[name] = None
        if len(self._removed) > _REMEMBERED:
            del self._removed[next(iter(self._removed))]


def _health(machine: Mapping[str, Any]) -> Manifest:
    """Keep taints and the Ready condition without its times, so that a heartbeat of the kubelet is not a change."""
    conditions = (machine.get("status") or {}).get("conditions") or ()
    ready = [
        {"type": "Ready", "status": c.get("status"), "reason": c.get("reason")}
        for c in conditions
        if c.get("type") == "Ready"
    ]
    taints = [
        {"key": taint.get("key"), "effect": taint.get("effect")}
        for taint in (machine.get("spec") or {}).get("taints") or ()
    ]
    return {"spec": {"taints": taints}, "status": {"conditions": ready}}


def _ready(machine: Manifest) -> bool:
    return any(condition["status"] == "True" for condition in machine["status"]["conditions"])
