"""The events of a job and of what belongs to it."""

import re
from typing import Any

from torchrun_cli.cluster.client import Client
from torchrun_cli.cluster.resources import EVENTS
from torchrun_operator.api.names import API_VERSION, KIND, rendezvous_name, snapshots_name


def events_of(client: Client, job: str, *, job_only: bool = False) -> list[dict[str, Any]]:
    """Return the events of a job in the namespace of the command. Raises ApiError."""
    about = f"involvedObject.kind={KIND},involvedObject.name={job}" if job_only else ""
    found, _ = client.list(EVENTS, client.namespace, fields=about)
    return [event for event in found if concerns(event, job, job_only=job_only)]


def concerns(event: dict[str, Any], job: str, *, job_only: bool = False) -> bool:
    """Whether an event is about the job, or about a pod or a claim that the operator has created for it."""
    about = event.get("involvedObject") or {}
    kind, name = about.get("kind"), about.get("name") or ""
    if kind == KIND:
        return name == job and about.get("apiVersion", API_VERSION) == API_VERSION
    if job_only:
        return False
    if kind == "Pod":
        return name == rendezvous_name(job) or re.fullmatch(re.escape(job) + r"-\d+(-r\d+)?", name) is not None
    return kind == "PersistentVolumeClaim" and name == snapshots_name(job)
