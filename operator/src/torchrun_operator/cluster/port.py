"""The interface of a Kubernetes cluster that the operator needs, and its errors.

Objects are plain dicts as the API server writes them. Typed models would drop unknown fields.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from torchrun_operator.core.facts.machines import Machines
from torchrun_operator.render.namespace import NamespaceRules

Manifest = Mapping[str, Any]
Key = tuple[str, str]
"""Namespace and name of a job."""


class ClusterError(Exception):
    """The API server did not answer, or answered with an error that may pass. Retry later."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}" if status else f"{reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


class ConflictError(ClusterError):
    """The object has changed since it was read (409). Read it and decide again."""


class RefusedError(ClusterError):
    """The API server does not accept this object (400, 403, 413, 422). A person must change something."""


class NotSyncedError(ClusterError):
    """What the watch of this namespace reports is not known yet. The job is woken as soon as it is."""


class TooLargeError(ClusterError):
    """The answer is larger than this process may read. Ask for less."""


class NameTakenError(ClusterError):
    """An object of that name exists and has another owner. The operator never changes it."""


class Cluster(Protocol):
    """The reads and writes of a pass. Every method raises ClusterError or a subclass."""

    async def get_job(self, namespace: str, name: str) -> Manifest | None:
        """Return the TorchrunJob, or None if there is none. May lag."""
        ...

    @property
    def namespaces(self) -> Sequence[str]:
        """The namespaces to list jobs in. A single empty name means all of them."""
        ...

    async def list_jobs(self, namespace: str) -> Sequence[Key]:
        """Return (namespace, name) of every TorchrunJob there."""
        ...

    async def delete_job(self, namespace: str, name: str, uid: str, version: str) -> None:
        """Delete the TorchrunJob with this uid, if it exists. The garbage collector deletes what it owns.

        Raises ConflictError if the job is not of this version any more.
        """
        ...

    async def list_pods(self, namespace: str, job: str) -> Sequence[Manifest]:
        """Return the pods with the job's label, of any owner. May lag. Raises NotSyncedError rather than wait."""
        ...

    async def list_machines(self, names: Collection[str]) -> Machines:
        """Return what is known of the Kubernetes nodes with these names. May lag."""
        ...

    async def read_log(self, namespace: str, pod: str, container: str, seconds: int | None = None) -> str:
        """Return the end of a container's log, at most a MiB. Each line begins with its time.

        ``seconds``: only what was written since, by the clock of the Kubernetes node of the pod.
        """
        ...

    async def namespace_rules(self, namespace: str) -> NamespaceRules:
        """Return what others demand of new objects in the namespace. Rules that it must not read are empty."""
        ...

    async def list_events(self, namespace: str, uid: str) -> Sequence[Manifest]:
        """Return events about the object with this uid (core/v1), in any order: at most a few dozen."""
        ...

    async def create_pod(self, manifest: Manifest) -> None:
        """Create a pod. An existing one of that name with the same owner counts as created.

        Raises NameTakenError if it has another owner, such as a job of the same name that is being deleted.
        """
        ...

    async def delete_pod(self, namespace: str, name: str, uid: str, grace_seconds: int | None) -> None:
        """Delete the pod with this uid, if it exists. ``grace_seconds`` None: its own grace period."""
        ...

    async def stop_pod(self, namespace: str, name: str, uid: str) -> None:
        """Let the kubelet end the containers of the pod with this uid, with its grace period. The pod stays."""
        ...

    async def create(self, manifest: Manifest) -> None:
        """Create an owned object that only its user changes afterwards. An existing one counts as created.

        Raises NameTakenError if an object of that name does not belong to the manifest's owner.
        """
        ...

    async def delete_owned(self, manifest: Manifest) -> None:
        """Delete the object of that kind and name, if it exists and belongs to the manifest's owner."""
        ...

    async def apply(self, manifest: Manifest) -> None:
        """Create an owned object, or make it match the manifest by server-side apply.

        Raises NameTakenError if an object of that name does not belong to the manifest's owner.
        """
        ...

    async def apply_status(self, namespace: str, name: str, resource_version: str, status: Manifest) -> None:
        """Write the whole status. Raises ConflictError if the job has changed since resource_version."""
        ...

    async def create_event(self, manifest: Manifest) -> None:
        """Record an event (core/v1)."""
        ...
