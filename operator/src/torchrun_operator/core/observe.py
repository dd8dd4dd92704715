"""From what the API server says of pods to the frozen picture; pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from torchrun_operator.api.names import (
    ANNOTATION_TOKEN_DIGEST,
    LABEL_NODE_INDEX,
    LABEL_ROLE,
    ROLE_NODE,
    ROLE_RENDEZVOUS,
    TRAINER_CONTAINER,
)
from torchrun_operator.core.observed import Exit, NodePod, Observed, Phase, Rendezvous, RendezvousPod

_MESSAGE_CHARACTERS = 2000


def observe(
    job_uid: str,
    pods: Iterable[Mapping[str, Any]],
    rendezvous: Rendezvous | None,
    *,
    token_digest: str = "",
) -> Observed:
    """Sort the pods that carry the job's label into its own nodes, its rendezvous pod, and strangers."""
    nodes: list[NodePod] = []
    foreign: list[str] = []
    rendezvous_pod = None
    for pod in pods:
        labels = pod["metadata"].get("labels") or {}
        if not _owned(pod, job_uid):
            foreign.append(pod["metadata"]["name"])
        elif labels.get(LABEL_ROLE) == ROLE_RENDEZVOUS:
            rendezvous_pod = _rendezvous_pod(pod)
        elif labels.get(LABEL_ROLE) == ROLE_NODE and str(labels.get(LABEL_NODE_INDEX, "")).isdecimal():
            nodes.append(_node_pod(pod, int(labels[LABEL_NODE_INDEX])))
    return Observed(
        nodes=tuple(sorted(nodes, key=lambda node: node.index)),
        rendezvous_pod=rendezvous_pod,
        rendezvous=rendezvous,
        token_digest=token_digest,
        foreign=tuple(sorted(foreign)),
    )


def _owned(pod: Mapping[str, Any], job_uid: str) -> bool:
    owners = pod["metadata"].get("ownerReferences") or ()
    return any(owner.get("controller") and owner.get("uid") == job_uid for owner in owners)


def _node_pod(pod: Mapping[str, Any], index: int) -> NodePod:
    status = pod.get("status") or {}
    reason, message = _waiting(status)
    return NodePod(
        index=index,
        name=pod["metadata"]["name"],
        uid=pod["metadata"]["uid"],
        phase=_phase(pod),
        address=status.get("podIP"),
        machine=pod["spec"].get("nodeName"),
        created_at=_time(pod["metadata"].get("creationTimestamp")),
        started_at=_time(status.get("startTime")),
        disrupted=_condition(status, "DisruptionTarget") is not None
        or status.get("reason") in ("Evicted", "Preempting"),
        exit=_exit(status),
        scheduled=bool(pod["spec"].get("nodeName")),
        waiting_reason=reason,
        waiting_message=message,
    )


def _rendezvous_pod(pod: Mapping[str, Any]) -> RendezvousPod:
    status = pod.get("status") or {}
    reason, message = _waiting(status)
    ready = _condition(status, "Ready")
    return RendezvousPod(
        name=pod["metadata"]["name"],
        uid=pod["metadata"]["uid"],
        phase=_phase(pod),
        address=status.get("podIP"),
        ready=ready is not None and ready.get("status") == "True",
        token_digest=(pod["metadata"].get("annotations") or {}).get(ANNOTATION_TOKEN_DIGEST, ""),
        started_at=_time(status.get("startTime")),
        waiting_reason=reason,
        waiting_message=message,
    )


def _phase(pod: Mapping[str, Any]) -> Phase:
    phase = (pod.get("status") or {}).get("phase")
    if phase == Phase.SUCCEEDED:
        return Phase.SUCCEEDED
    if pod["metadata"].get("deletionTimestamp"):
        return Phase.TERMINATING  # also when it has failed: SIGTERM makes torchrun exit 1
    if phase == Phase.FAILED:
        return Phase.FAILED
    if phase == Phase.RUNNING:
        return Phase.RUNNING
    return Phase.STARTING if pod["spec"].get("nodeName") else Phase.PENDING


def _exit(status: Mapping[str, Any]) -> Exit | None:
    for container in status.get("containerStatuses") or ():
        ended = (container.get("state") or {}).get("terminated")
        if container.get("name") == TRAINER_CONTAINER and ended is not None:
            return Exit(
                code=int(ended.get("exitCode", 0)),
                reason=str(status.get("reason") or ended.get("reason") or ""),
                message=str(ended.get("message") or status.get("message") or "").strip()[-_MESSAGE_CHARACTERS:],
                finished_at=_time(ended.get("finishedAt")),
            )
    if status.get("phase") == Phase.FAILED:
        # Evicted before it ran, or another container failed: the pod's own words are all there is.
        return Exit(
            -1, str(status.get("reason") or "Failed"), str(status.get("message") or "")[:_MESSAGE_CHARACTERS], None
        )
    return None


def _waiting(status: Mapping[str, Any]) -> tuple[str, str]:
    """Why the pod does not run yet: the first container that waits for something bad, else what the scheduler says."""
    for container in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in (None, "", "ContainerCreating", "PodInitializing"):
            return str(waiting["reason"]), str(waiting.get("message") or "")[:_MESSAGE_CHARACTERS]
    scheduled = _condition(status, "PodScheduled")
    if scheduled is not None and scheduled.get("status") == "False":
        return str(scheduled.get("reason") or "Unschedulable"), str(scheduled.get("message") or "")[
            :_MESSAGE_CHARACTERS
        ]
    return "", ""


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    return next((c for c in status.get("conditions") or () if c.get("type") == kind), None)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
