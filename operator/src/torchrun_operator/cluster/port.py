"""What the operator asks of a Kubernetes cluster, and the errors it can meet. Objects are plain dicts as the API
server writes them: typed models would drop the fields they do not know.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

Manifest = Mapping[str, Any]
Key = tuple[str, str]
"""Namespace and name of a job."""


class ClusterError(Exception):
    """The API server could not be reached, or answered with an error that may pass: try again later."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}" if status else f"{reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


class ConflictError(ClusterError):
    """The object has changed since it was read (409): read again, decide again."""


class RefusedError(ClusterError):
    """The API server does not accept this object as it is (400, 403, 413, 422): a person has to change something."""


class NameTakenError(ClusterError):
    """An object of that name exists and belongs to somebody else: it is never touched."""


class Cluster(Protocol):
    """Reads and writes of one reconciliation. Every method raises ClusterError or one of its kinds."""

    async def get_job(self, namespace: str, name: str) -> Manifest | None:
        """Return the TorchrunJob, perhaps as it was a moment ago, or None where there is none."""
        ...

    async def list_jobs(self) -> Sequence[Key]:
        """Return (namespace, name) of every TorchrunJob that is watched."""
        ...

    async def list_pods(self, namespace: str, job: str) -> Sequence[Manifest]:
        """Return the pods that carry the job's label, whoever owns them; perhaps as they were a moment ago."""
        ...

    async def list_machines(self, names: Collection[str]) -> Mapping[str, Manifest | None]:
        """Return what is known of the cluster's nodes of these names, perhaps as it was a moment ago.

        None: it was there once and has been removed. Left out: nothing is known of it, or it may not be read.
        """
        ...

    async def read_log(self, namespace: str, pod: str, container: str, lines: int) -> str:
        """Return the last lines of a container's log, each with its time in front."""
        ...

    async def create_pod(self, manifest: Manifest) -> None:
        """Create a pod; one of that name that has the same owner already counts as created.

        Raises NameTakenError where it belongs to another owner (a job of the same name that is being deleted, say).
        """
        ...

    async def delete_pod(self, namespace: str, name: str, uid: str, grace_seconds: int | None) -> None:
        """Delete that very pod (uid), in its own grace period unless told otherwise; gone already is fine."""
        ...

    async def apply(self, manifest: Manifest) -> None:
        """Make an owned object what the manifest says, by server-side apply.

        Raises NameTakenError where an object of that name does not belong to the manifest's owner.
        """
        ...

    async def apply_status(self, namespace: str, name: str, resource_version: str, status: Manifest) -> None:
        """Write the whole status. Raises ConflictError where the job has changed since resource_version."""
        ...

    async def create_event(self, manifest: Manifest) -> None:
        """Record an event (core/v1)."""
        ...
