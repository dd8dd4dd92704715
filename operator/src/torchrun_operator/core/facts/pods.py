"""Reads pods as the API server reports them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from torchrun_operator.api.names import (
    ANNOTATION_LEAD_UID,
    ANNOTATION_SPEC_DIGEST,
    ANNOTATION_TOKEN_DIGEST,
    LABEL_NODE_INDEX,
    LABEL_ROLE,
    RENDEZVOUS_CONTAINER,
    ROLE_NODE,
    ROLE_OUTPUTS,
    ROLE_RENDEZVOUS,
    STOPPED_AFTER_SECONDS,
    TRAINER_CONTAINER,
)
from torchrun_operator.api.v1alpha1 import TorchrunJob
from torchrun_operator.core.facts.exits import EVICTED, PREEMPTED, exceeds_own_limit
from torchrun_operator.core.facts.hearing import Hearing
from torchrun_operator.core.facts.lost import Evidence, tolerates_silence
from torchrun_operator.core.facts.machines import Machines
from torchrun_operator.core.facts.model import Exit, Facts, NodePod, Phase, RendezvousPod, UploadPod
from torchrun_operator.core.facts.uploads import upload_pod
from torchrun_operator.core.facts.waiting import condition, time_of, waiting
from torchrun_rendezvous.protocol import RendezvousState

_LEAVING = frozenset({Phase.TERMINATING, Phase.LOST})
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_MESSAGE_CHARACTERS = 4096
"""Maximum size of a termination message that a kubelet keeps."""


def gather(
    job: TorchrunJob,
    now: datetime,
    pods: Sequence[Mapping[str, Any]],
    rendezvous: RendezvousState | None,
    *,
    token_digest: str = "",
    machines: Machines | None = None,
    hearing: Hearing | None = None,
) -> Facts:
    """Sort the pods with the job's label into nodes, the rendezvous pod, and pods of another owner.

    This includes pods whose Kubernetes node is missing from ``machines``. Without ``hearing``, nothing was heard yet.
    """
    digest = job.spec.frozen_digest
    tolerates = tolerates_silence(job.spec.template.get("spec") or {})
    evidence = Evidence(machines or Machines(), rendezvous, hearing or Hearing(), tolerates)
    own = [pod for pod in pods if _owned(pod, job.metadata.uid)]
    rendezvous_pod, waits = None, []
    for pod in own:
        if _labels(pod).get(LABEL_ROLE) == ROLE_RENDEZVOUS:
            answers = _phase(pod) is Phase.RUNNING
            judged = evidence.of_host(pod, answers=answers)
            rendezvous_pod = _rendezvous_pod(pod, judged.why, digest)
            waits.append(judged.wait)
    done = {node.uid for node in job.status.nodes if node.phase == Phase.SUCCEEDED}
    nodes: list[NodePod] = []
    uploading: UploadPod | None = None
    for pod in own:
        index = str(_labels(pod).get(LABEL_NODE_INDEX, ""))
        if _labels(pod).get(LABEL_ROLE) == ROLE_OUTPUTS:
            judged = evidence.of_host(pod, answers=False)
            uploading = upload_pod(pod, _phase(pod), judged.why)
            waits.append(judged.wait)
        if _labels(pod).get(LABEL_ROLE) == ROLE_NODE and index.isdecimal():
            judged = evidence.of_node(pod, rendezvous_pod)
            nodes.append(_node_pod(pod, int(index), judged.why, digest, done=pod["metadata"]["uid"] in done))
            waits.append(judged.wait)
    current = _current(nodes)
    refused = job.status.refusal
    soonest = min((wait for wait in waits if wait is not None), default=None)
    return Facts(
        job=job,
        now=now,
        nodes=current,
        former=tuple(node for node in nodes if node not in current),
        rendezvous_pod=rendezvous_pod,
        upload_pod=uploading,
        rendezvous=rendezvous,
        token_digest=token_digest,
        refusal=refused.message if refused is not None else "",
        name_taken=refused is not None and refused.name_taken,
        foreign=tuple(sorted(pod["metadata"]["name"] for pod in pods if not _owned(pod, job.metadata.uid))),
        judged_at=now + timedelta(seconds=soonest) if soonest is not None else None,
    )


def _current(nodes: Sequence[NodePod]) -> tuple[NodePod, ...]:
    """Return one pod for each index: the newest, but none that is being deleted if there is another."""
    found: dict[int, NodePod] = {}
    for node in sorted(nodes, key=lambda node: (node.phase not in _LEAVING, node.created_at or _LONG_AGO)):
        found[node.index] = node
    return tuple(found[index] for index in sorted(found))


def _labels(pod: Mapping[str, Any]) -> Mapping[str, str]:
    labels: Mapping[str, str] = pod["metadata"].get("labels") or {}
    return labels


def _owned(pod: Mapping[str, Any], job_uid: str) -> bool:
    owners = pod["metadata"].get("ownerReferences") or ()
    return any(owner.get("controller") and owner.get("uid") == job_uid for owner in owners)


def _node_pod(pod: Mapping[str, Any], index: int, lost: str, digest: str, *, done: bool) -> NodePod:
    status = pod.get("status") or {}
    phase = Phase.SUCCEEDED if done else _node_phase(pod, status, lost)
    return NodePod(
        index=index,
        name=pod["metadata"]["name"],
        uid=pod["metadata"]["uid"],
        phase=phase,
        address=status.get("podIP"),
        machine=pod["spec"].get("nodeName"),
        created_at=time_of(pod["metadata"].get("creationTimestamp")),
        started_at=time_of(status.get("startTime")),
        stop_requested_at=_stop_requested_at(pod["metadata"]),
        grace_seconds=pod["metadata"].get("deletionGracePeriodSeconds") or 0,
        finalizers=tuple(pod["metadata"].get("finalizers") or ()),
        disruption=_disruption(status),
        trouble=lost if phase is Phase.LOST else "",
        exit=_exit(status),
        scheduled=bool(pod["spec"].get("nodeName")),
        lingers=phase in _ENDED and _others_run(status),
        over=bool(pod["metadata"].get("deletionTimestamp")) and status.get("phase") in _ENDED,
        stopping=pod["spec"].get("activeDeadlineSeconds") == STOPPED_AFTER_SECONDS,
        runs_since=_runs_since(status),
        wait=waiting(status, TRAINER_CONTAINER),
        outdated=_annotation(pod, ANNOTATION_SPEC_DIGEST) not in ("", digest),
        lead=_annotation(pod, ANNOTATION_LEAD_UID),
    )


def _stop_requested_at(metadata: Mapping[str, Any]) -> datetime | None:
    """Return when the deletion was requested. The deletion timestamp is the end of the grace period."""
    ends = time_of(metadata.get("deletionTimestamp"))
    return ends - timedelta(seconds=metadata.get("deletionGracePeriodSeconds") or 0) if ends is not None else None


def _rendezvous_pod(pod: Mapping[str, Any], lost: str, digest: str) -> RendezvousPod:
    status = pod.get("status") or {}
    ready = condition(status, "ContainersReady")
    return RendezvousPod(
        name=pod["metadata"]["name"],
        uid=pod["metadata"]["uid"],
        phase=Phase.LOST if lost else _phase(pod),
        address=status.get("podIP"),
        ready=ready is not None and ready.get("status") == "True",
        token_digest=_annotation(pod, ANNOTATION_TOKEN_DIGEST),
        started_at=time_of(status.get("startTime")),
        trouble=lost,
        wait=waiting(status, RENDEZVOUS_CONTAINER),
        outdated=_annotation(pod, ANNOTATION_SPEC_DIGEST) not in ("", digest),
    )


def _annotation(pod: Mapping[str, Any], name: str) -> str:
    return str((pod["metadata"].get("annotations") or {}).get(name, ""))


_ENDED = frozenset({Phase.SUCCEEDED, Phase.FAILED})


def _node_phase(pod: Mapping[str, Any], status: Mapping[str, Any], lost: str) -> Phase:
    """Return a node's phase. The trainer container decides: others may run forever, restart, wait or fail.

    An end of the whole pod has a reason. Then the exit code of the trainer says only how it took the signal.
    """
    phase, ended = _phase(pod), _terminated(status)
    if ended is not None and phase not in (Phase.TERMINATING, Phase.SUCCEEDED):
        succeeded = not ended.get("exitCode", 0) and not status.get("reason")
        return Phase.SUCCEEDED if succeeded else Phase.FAILED
    if phase in (Phase.PENDING, Phase.STARTING) and _runs_since(status) is not None:
        phase = Phase.RUNNING
    return Phase.LOST if lost and phase not in _ENDED else phase


def _others_run(status: Mapping[str, Any]) -> bool:
    """Whether other containers still run. The phase of a pod stays Running for a moment after the last one ends."""
    others = (c for c in status.get("containerStatuses") or () if c.get("name") != TRAINER_CONTAINER)
    return status.get("phase") == Phase.RUNNING and any(
        (c.get("state") or {}).get("running") is not None for c in others
    )


def _disruption(status: Mapping[str, Any]) -> str:
    disrupted = condition(status, "DisruptionTarget")
    if disrupted is not None and disrupted.get("status") != "False":
        return str(disrupted.get("reason") or "Disrupted")
    reason = str(status.get("reason") or "")
    if exceeds_own_limit(reason, str(status.get("message") or "")):
        return ""
    return reason if reason in (EVICTED, PREEMPTED) else ""


def _phase(pod: Mapping[str, Any]) -> Phase:
    phase = (pod.get("status") or {}).get("phase")
    if phase == Phase.SUCCEEDED:
        return Phase.SUCCEEDED
    if pod["metadata"].get("deletionTimestamp"):
        return Phase.TERMINATING  # also if it failed: torchrun exits with 1 after SIGTERM
    if phase == Phase.FAILED:
        return Phase.FAILED
    if phase == Phase.RUNNING:
        return Phase.RUNNING
    return Phase.STARTING if pod["spec"].get("nodeName") else Phase.PENDING


def _runs_since(status: Mapping[str, Any]) -> datetime | None:
    trainers = (c for c in status.get("containerStatuses") or () if c.get("name") == TRAINER_CONTAINER)
    runs = next(((c.get("state") or {}).get("running") for c in trainers), None)
    return time_of(runs.get("startedAt")) if runs else None


def _terminated(status: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return how the trainer container ended, if it has."""
    trainers = (c for c in status.get("containerStatuses") or () if c.get("name") == TRAINER_CONTAINER)
    return next((c["state"]["terminated"] for c in trainers if (c.get("state") or {}).get("terminated")), None)


def _exit(status: Mapping[str, Any]) -> Exit | None:
    """Return how the trainer container ended, if it has. What Kubernetes says of the whole pod comes first."""
    ended, of_pod, other = _terminated(status), bool(status.get("reason")), ""
    if ended is None and status.get("phase") != Phase.FAILED:
        return None
    if ended is None:  # the pod ended before the trainer did: it was rejected, or another container failed
        other, ended = _failed_container(status)
    container = ended or {"exitCode": -1, "reason": "Failed"}
    said = (status.get("message"), container.get("message"))
    return Exit(
        code=int(container.get("exitCode", 0)),
        reason=str(status.get("reason") or container.get("reason") or ""),
        message=str((said[0] or said[1] if of_pod else said[1] or said[0]) or "").strip()[-_MESSAGE_CHARACTERS:],
        finished_at=time_of(container.get("finishedAt")),
        container=other,
        of_pod=of_pod,
    )


def _failed_container(status: Mapping[str, Any]) -> tuple[str, Mapping[str, Any] | None]:
    """Return the name of the first container that failed, and how it ended."""
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        ended = (container.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode"):
            return str(container.get("name") or ""), ended
    return "", None
