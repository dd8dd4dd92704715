"""What the operator needs of a Kubernetes cluster, and the errors that can occur.

Objects are plain dicts as the API server writes them: typed models would drop the fields that they do not know.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from torchrun_operator.core.facts.machines import Machines

Manifest = Mapping[str, Any]
Key = tuple[str, str]
"""Namespace and name of a job."""


class ClusterError(Exception):
    """The API server could not be reached, or answered with an error that may pass: retry later."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}" if status else f"{reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


class ConflictError(ClusterError):
    """The object has changed since it was read (409): read and decide again."""


class RefusedError(ClusterError):
    """The API server does not accept this object (400, 403, 413, 422): somebody has to change something."""


class NameTakenError(ClusterError):
    """An object of that name exists and has another owner: it is never touched."""


class Cluster(Protocol):
    """Reads and writes of one reconciliation. Every method raises ClusterError or one of its kinds."""

    async def get_job(self, namespace: str, name: str) -> Manifest | None:
        """Return the TorchrunJob, perhaps as of a moment ago, or None if there is none."""
        ...

    async def list_jobs(self) -> Sequence[Key]:
        """Return (namespace, name) of every watched TorchrunJob, without namespaces that may not be read."""
        ...

    async def list_pods(self, namespace: str, job: str) -> Sequence[Manifest]:
        """Return the pods that carry the job's label, whoever owns them, perhaps as of a moment ago."""
        ...

    async def list_machines(self, names: Collection[str]) -> Machines:
        """Return what is known of the Kubernetes nodes of these names, perhaps as of a moment ago."""
        ...

    async def read_log(self, namespace: str, pod: str, container: str, lines: int) -> str:
        """Return the last lines of a container's log, each preceded by its time."""
        ...

    async def create_pod(self, manifest: Manifest) -> None:
        """Create a pod. An existing one of that name with the same owner counts as created.

        Raises NameTakenError if it has another owner, such as a job of the same name that is being deleted.
        """
        ...

    async def delete_pod(self, namespace: str, name: str, uid: str, grace_seconds: int | None) -> None:
        """Delete the pod with this uid, if it still exists, with its own grace period unless another is given."""
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
