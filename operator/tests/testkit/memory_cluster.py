"""A cluster in memory, with the garbage collector, the rules of the API server that the operator needs, and faults."""

import copy
import itertools
import json
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from torchrun_operator.api.base import rfc3339
from torchrun_operator.api.names import LABEL_JOB_NAME
from torchrun_operator.cluster.port import ClusterError, ConflictError, Manifest, NameTakenError, RefusedError
from torchrun_operator.cluster.watch.trimming import trimmed
from torchrun_operator.core.facts.machines import Machines, Silence
from torchrun_operator.render.namespace import NamespaceRules

Stored = dict[str, Any]
Fault = Callable[[int, str, bool], Awaitable[None]]
"""Called before and after each request with its number, its words, and whether it had its effect. May raise or hang."""


class MemoryCluster:
    """Implements cluster.port.Cluster. Tests access `objects`, `events` and `log`."""

    def __init__(self) -> None:
        self.namespaces: Sequence[str] = ("",)
        self.objects: dict[tuple[str, str, str], Stored] = {}
        """By kind, namespace and name, as the API server would return them."""
        self.events: list[Manifest] = []
        self.log: list[str] = []
        """All requests, in words."""
        self.fault: Fault | None = None
        self.refuse: Callable[[Manifest], str] = lambda _manifest: ""
        """Returns why the API server rejects an object; empty: it accepts it."""
        self.lagging: list[Stored] | None = None
        """The pods that list_pods() returns while the watch lags. None: the existing ones."""
        self.logs: dict[str, str] = {}
        """By pod name, with times."""
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)
        """The clock of the API server and of the node controller."""
        self.removed_machines: set[str] = set()
        self._silent_since: dict[str, float] = {}
        self._numbers = itertools.count(1)
        self.most_pods: dict[str, int] = {}
        """By pod name, the number of created pods."""

    async def get_job(self, namespace: str, name: str) -> Manifest | None:
        """See Cluster.get_job."""
        await self._around(f"get {name}")
        return copy.deepcopy(self.objects.get(("TorchrunJob", namespace, name)))

    async def delete_job(self, namespace: str, name: str, uid: str, version: str) -> None:
        """See Cluster.delete_job."""
        await self._around(f"delete job {name}")
        job = self.objects.get(("TorchrunJob", namespace, name))
        if job is not None and (job["metadata"]["uid"], job["metadata"]["resourceVersion"]) != (uid, version):
            raise ConflictError(409, "Conflict", f"{name} has changed")
        if job is not None:
            self.remove(job)
        await self._around(f"delete job {name}", done=True)

    async def list_jobs(self, namespace: str) -> Sequence[tuple[str, str]]:
        """See Cluster.list_jobs."""
        await self._around("list jobs")
        return [(namespace, name) for kind, namespace, name in self.objects if kind == "TorchrunJob"]

    async def list_pods(self, namespace: str, job: str) -> Sequence[Manifest]:
        """See Cluster.list_pods. As with a watch, only the kept part of a pod is there."""
        await self._around("list pods")
        pods = self.pods() if self.lagging is None else self.lagging
        return [
            trimmed(pod)
            for pod in pods
            if pod["metadata"]["namespace"] == namespace and pod["metadata"]["labels"].get(LABEL_JOB_NAME) == job
        ]

    async def list_machines(self, names: Collection[str]) -> Machines:
        """See Cluster.list_machines; no request: a watch knows it."""
        known: dict[str, Manifest | None] = {name: None for name in names if name in self.removed_machines}
        known |= {name: self.objects["Node", "", name] for name in names if ("Node", "", name) in self.objects}
        nodes = {name: thing for (kind, _, name), thing in self.objects.items() if kind == "Node"}
        silent = {
            name: Silence("", since, self.now().timestamp() - since) for name, since in self._silent_since.items()
        }
        return Machines(known, any(_ready(thing) for thing in nodes.values()), {"": len(nodes)}, silent)

    async def read_log(self, namespace: str, pod: str, container: str, seconds: int | None = None) -> str:
        """See Cluster.read_log."""
        await self._around(f"log {pod}")
        if pod not in self.logs:
            raise ClusterError(404, "NotFound", f"{pod} not found")
        lines = self.logs[pod].splitlines(keepends=True)
        since = self.now() - timedelta(seconds=seconds) if seconds is not None else None
        return "".join(line for line in lines if since is None or datetime.fromisoformat(line.split()[0]) >= since)

    async def namespace_rules(self, namespace: str) -> NamespaceRules:
        """See Cluster.namespace_rules."""
        await self._around(f"rules of {namespace}")
        kinds = ("LimitRange", "NetworkPolicy")
        ranges, policies = (
            tuple(copy.deepcopy(thing) for (kind, *_), thing in self.objects.items() if kind == wanted)
            for wanted in kinds
        )
        return NamespaceRules(ranges, policies)

    async def create(self, manifest: Manifest) -> None:
        """See Cluster.create."""
        what = f"create {manifest['kind']} {manifest['metadata']['name']}"
        await self._around(what)
        self._create(manifest)
        await self._around(what, done=True)

    async def delete_owned(self, manifest: Manifest) -> None:
        """See Cluster.delete_owned."""
        metadata = manifest["metadata"]
        what = f"remove {manifest['kind']} {metadata['name']}"
        await self._around(what)
        found = self.objects.get((manifest["kind"], metadata["namespace"], metadata["name"]))
        if found is not None and _owner(found) == _owner(manifest):
            self.remove(found)
        await self._around(what, done=True)

    async def list_events(self, namespace: str, uid: str) -> Sequence[Manifest]:
        """See Cluster.list_events."""
        await self._around(f"events of {uid}")
        return [event for event in self.events if event["involvedObject"]["uid"] == uid]

    async def create_pod(self, manifest: Manifest) -> None:
        """See Cluster.create_pod."""
        what = f"create {manifest['metadata']['name']}"
        await self._around(what)
        self._create(manifest)
        await self._around(what, done=True)

    async def delete_pod(self, namespace: str, name: str, uid: str, grace_seconds: int | None) -> None:
        """See Cluster.delete_pod."""
        what = f"delete {name}"
        await self._around(what)
        pod = self.objects.get(("Pod", namespace, name))
        if pod is not None and pod["metadata"]["uid"] == uid:
            self.delete_gracefully(pod, grace_seconds)
        await self._around(what, done=True)

    async def stop_pod(self, namespace: str, name: str, uid: str) -> None:
        """See Cluster.stop_pod."""
        what = f"stop {name}"
        await self._around(what)
        pod = self.objects.get(("Pod", namespace, name))
        if pod is not None and pod["metadata"]["uid"] == uid:
            pod["spec"]["activeDeadlineSeconds"] = 1
            self.touch(pod)
        await self._around(what, done=True)

    async def apply(self, manifest: Manifest) -> None:
        """See Cluster.apply."""
        what = f"apply {manifest['kind']} {manifest['metadata']['name']}"
        await self._around(what)
        found = self._create(manifest)
        if found is not None:
            for part in ("spec", "data"):
                if part in manifest:
                    found[part] = copy.deepcopy(manifest[part])
        await self._around(what, done=True)

    async def apply_status(self, namespace: str, name: str, resource_version: str, status: Manifest) -> None:
        """See Cluster.apply_status."""
        await self._around(f"status {name}")
        job = self.objects.get(("TorchrunJob", namespace, name))
        if job is None:
            raise ClusterError(404, "NotFound", f"{name} not found")
        if job["metadata"]["resourceVersion"] != resource_version:
            raise ConflictError(409, "Conflict", "the object has been modified")
        job["status"] = json.loads(json.dumps(status))
        self.touch(job)
        await self._around(f"status {name}", done=True)

    async def create_event(self, manifest: Manifest) -> None:
        """See Cluster.create_event."""
        await self._around(f"event {manifest['reason']}")
        self.events.append(copy.deepcopy(manifest))

    def add(self, manifest: Manifest) -> Stored:
        """Store an object as another client would."""
        metadata = manifest["metadata"]
        number = next(self._numbers)
        stored = copy.deepcopy(dict(manifest))
        stored["metadata"] = {
            "creationTimestamp": "2026-01-31T11:00:00Z",
            **metadata,
            "uid": metadata.get("uid") or f"uid-{number}",
            "resourceVersion": str(number),
        }
        self.objects[manifest["kind"], metadata["namespace"], metadata["name"]] = stored
        return stored

    def add_machine(self, name: str) -> None:
        """Add a ready Kubernetes node to the cluster."""
        if ("Node", "", name) not in self.objects:
            self.add({"kind": "Node", "metadata": {"name": name, "namespace": ""}, "spec": {}})
        self.set_ready(name, "True")

    def set_ready(self, name: str, status: str) -> None:
        """Set the Ready condition of the Kubernetes node."""
        self.objects["Node", "", name]["status"] = {"conditions": [{"type": "Ready", "status": status}]}
        if status != "Unknown":
            self._silent_since.pop(name, None)
        elif name not in self._silent_since:
            self._silent_since[name] = self.now().timestamp()

    def remove_machine(self, name: str) -> None:
        """Remove the Kubernetes node from the cluster."""
        self.remove(self.objects["Node", "", name])
        self._silent_since.pop(name, None)
        self.removed_machines.add(name)

    def edit(self, job: Stored, **spec: Any) -> None:
        """Change the spec as a user would."""
        job["spec"].update(spec)
        job["metadata"]["generation"] += 1
        self.touch(job)

    def touch(self, thing: Stored) -> None:
        """Give it a new resource version."""
        thing["metadata"]["resourceVersion"] = str(next(self._numbers))

    def remove(self, thing: Stored) -> None:
        """Remove the object at once, and then the objects that it owns."""
        metadata = thing["metadata"]
        self.objects.pop((thing["kind"], metadata["namespace"], metadata["name"]), None)
        for other in list(self.objects.values()):
            if any(owner["uid"] == metadata["uid"] for owner in other["metadata"].get("ownerReferences") or ()):
                self.remove(other)

    def delete_gracefully(self, pod: Stored, grace_seconds: int | None = None) -> None:
        """Delete as the API server does: at once if the pod is on no Kubernetes node or the grace period is 0."""
        if grace_seconds == 0 or not pod["spec"].get("nodeName"):
            self.remove(pod)
        elif "deletionTimestamp" not in pod["metadata"]:
            grace = 30 if grace_seconds is None else grace_seconds
            ends = self.now() + timedelta(seconds=grace)
            pod["metadata"] |= {"deletionTimestamp": rfc3339(ends), "deletionGracePeriodSeconds": grace}
            self.touch(pod)

    def pods(self) -> list[Stored]:
        """Return every pod."""
        return [thing for (kind, _, _), thing in self.objects.items() if kind == "Pod"]

    def _create(self, manifest: Manifest) -> Stored | None:
        """Create the object. If it exists with the same owner, return that one."""
        reason = self.refuse(manifest)
        if reason:
            raise RefusedError(403, "Forbidden", reason)
        metadata = manifest["metadata"]
        found = self.objects.get((manifest["kind"], metadata["namespace"], metadata["name"]))
        if found is None:
            stored = self.add(manifest)
            if manifest["kind"] == "Pod":
                stored["status"] = {"phase": "Pending"}
                self.most_pods[metadata["name"]] = self.most_pods.get(metadata["name"], 0) + 1
            return None
        if _owner(found) != _owner(manifest):
            raise NameTakenError(409, "NameTaken", f"{metadata['name']} exists and belongs to another owner")
        if "deletionTimestamp" in found["metadata"]:
            raise ConflictError(409, "Conflict", f"{metadata['name']} is being deleted")
        return found

    async def _around(self, what: str, *, done: bool = False) -> None:
        if not done:
            self.log.append(what)
        if self.fault is not None:
            await self.fault(len(self.log), what, done)


def _owner(manifest: Manifest) -> str | None:
    owners = manifest["metadata"].get("ownerReferences") or ()
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


def _ready(machine: Stored) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in machine["status"]["conditions"])
