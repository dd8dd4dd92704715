"""Jobs, pods and rendezvous states for tests, complete and plausible by default."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from torchrun_operator.api.v1alpha1 import BackOff, TorchrunJob, TorchrunJobStatus, job_of
from torchrun_operator.core import decide as core
from torchrun_operator.core.decide import Decision
from torchrun_operator.core.facts.model import Exit, Facts, NodePod, Phase, RendezvousPod
from torchrun_rendezvous.protocol import Member, RendezvousState, RoundsEnded, Target, Unrequested

NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
CREATED = NOW - timedelta(minutes=10)
"""When pods were created: long enough ago to replace a failed one at once."""
DIGEST = "d1" * 32

Manifest = dict[str, Any]

_WRONG_PLURAL = re.compile(
    r"\b1 (node pods|nodes|pods|spares|times|workers|restarts|failures)\b|\b1 (of [0-9]+ )?[a-z ]+ (have|train|are)\b"
)


def at(seconds: float) -> datetime:
    """Return the time that many seconds after NOW."""
    return NOW + timedelta(seconds=seconds)


def job_manifest(name: str = "digits", **spec: Any) -> Manifest:
    """Return a job as the API server stores it. Spec fields have their names in JSON."""
    return {
        "apiVersion": "torchrun.dev/v1alpha1",
        "kind": "TorchrunJob",
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": "job-uid",
            "generation": 1,
            "resourceVersion": "1",
            "creationTimestamp": "2026-01-31T11:00:00Z",
        },
        "spec": {
            "nnodes": "2:4",
            "replicas": 3,
            "template": {"spec": {"containers": [{"name": "trainer", "image": "train:1", "command": ["torchrun"]}]}},
            **spec,
        },
    }


COLD: dict[str, Any] = {"elasticity": {"warmStart": False}}
"""The part of a spec with which agents do not outlive the rendezvous host."""


def make_job(status: TorchrunJobStatus | None = None, *, generation: int = 1, **spec: Any) -> TorchrunJob:
    """Return the job `digits`, which wants 3 of 2:4 nodes by default."""
    job = job_of(job_manifest(**spec))
    metadata = job.metadata.model_copy(update={"generation": generation})
    return job.model_copy(update={"metadata": metadata, "status": status or TorchrunJobStatus()})


def make_node(index: int, phase: Phase = Phase.RUNNING, *, life: int = 1, **changes: Any) -> NodePod:
    """Return a node's pod. `life` distinguishes pods of one index."""
    placed = phase is not Phase.PENDING
    defaults: dict[str, Any] = {
        "address": f"10.0.{life}.{index}" if phase not in (Phase.PENDING, Phase.STARTING) else None,
        "machine": f"machine-{index}" if placed else None,
        "scheduled": placed,
        "created_at": CREATED,
        "started_at": CREATED if placed else None,
    }
    return NodePod(index, f"digits-{index}", f"pod-{index}-{life}", phase, **{**defaults, **changes})


def failed(
    index: int, code: int = 1, reason: str = "Error", message: str = "", container: str = "", **changes: Any
) -> NodePod:
    """Return a node's pod whose trainer container, or another one, has just failed."""
    ended = Exit(code, reason, message, NOW, container=container)
    return make_node(index, Phase.FAILED, exit=ended, **changes)


def rejected(index: int, reason: str, message: str = "", code: int = -1, **changes: Any) -> NodePod:
    """Return a node's pod that Kubernetes has just rejected, or ended as a whole."""
    return make_node(index, Phase.FAILED, exit=Exit(code, reason, message, NOW, of_pod=True), **changes)


HOST = RendezvousPod(
    "digits-rdzv",
    "pod-rdzv",
    Phase.RUNNING,
    address="10.0.0.250",
    ready=True,
    token_digest=DIGEST,
    started_at=CREATED,
)


def make_rendezvous(*nodes: NodePod, **changes: Any) -> RendezvousState:
    """Return the state of a host whose first round is complete with these nodes."""
    members = tuple(Member(node.address or "", rank) for rank, node in enumerate(nodes))
    return RendezvousState("aa", **{"complete": True, "members": members, **changes})


def left(state: RendezvousState, count: int, time: datetime, *first: str, **changes: Any) -> RendezvousState:
    """Return the state after `count` rounds ended because workers failed; the last time, `first` left at `time`."""
    ended = RoundsEnded(state.rounds_ended.requested, count)
    return replace(state, rounds_ended=ended, last_unrequested=Unrequested(state.round, first, time), **changes)


def keeping_out(state: RendezvousState, *leavers: str) -> RendezvousState:
    """Return the state of a host whose target keeps these addresses out."""
    return replace(state, target=Target(1, 3, 2, 15.0, leavers))


def seen(*nodes: NodePod, rendezvous: RendezvousState | None = None, **changes: Any) -> Facts:
    """Return facts with these nodes and a running rendezvous pod."""
    return facts(nodes=nodes, rendezvous=rendezvous, **{"rendezvous_pod": HOST, "token_digest": DIGEST, **changes})


def facts(**parts: Any) -> Facts:
    """Return facts with only these values. Job and time are plausible by default."""
    return Facts(**{"job": make_job(), "now": NOW, **parts})


def decide(job: TorchrunJob, found: Facts, now: datetime) -> Decision:
    """Return the decision about that job at that time. All its messages have the singular where it belongs."""
    decision = core.decide(replace(found, job=job, now=now))
    said = [c.message for c in decision.status.conditions] + [event.message for event in decision.events]
    assert [message for message in said if _WRONG_PLURAL.search(message)] == []
    return decision


def after(job: TorchrunJob, found: Facts, now: datetime = NOW) -> TorchrunJob:
    """Return the job after a write and a read of the decision's status."""
    return stored(job, decide(job, found, now))


def stored(job: TorchrunJob, decision: Decision) -> TorchrunJob:
    """Return the job with that status, written as JSON and read again."""
    return job.model_copy(update={"status": TorchrunJobStatus.model_validate(decision.status.wire())})


THREE = tuple(make_node(index) for index in range(3))


def training_job(*nodes: NodePod, now: datetime = NOW - timedelta(minutes=5), **spec: Any) -> TorchrunJob:
    """Return a job whose status says that these nodes train (by default: three)."""
    nodes = nodes or THREE
    return after(make_job(**spec), seen(*nodes, rendezvous=make_rendezvous(*nodes)), now)


def failing(job: TorchrunJob, seconds: float = -3) -> TorchrunJob:
    """Return the job once the operator has seen, that long after NOW, failures of workers that it has not counted."""
    recorded = job.status.rendezvous.model_copy(update={"failing_since": at(seconds)})
    return job.model_copy(update={"status": job.status.model_copy(update={"rendezvous": recorded})})


def backing_off(job: TorchrunJob, index: int, failures: int, **times: datetime) -> TorchrunJob:
    """Return the job whose status counts these failures of a node in a row soon after its start."""
    entry = BackOff(failures=failures, **{"retry_time": NOW - timedelta(minutes=5), **times})
    nodes = (n.model_copy(update={"back_off": entry}) if n.index == index else n for n in job.status.nodes)
    return job.model_copy(update={"status": job.status.model_copy(update={"nodes": tuple(nodes)})})


def without(nodes: tuple[NodePod, ...], index: int) -> tuple[NodePod, ...]:
    """Return the nodes except the one with that index."""
    return tuple(node for node in nodes if node.index != index)


def instead(nodes: tuple[NodePod, ...], node: NodePod) -> tuple[NodePod, ...]:
    """Return the nodes, with the one of the same index replaced."""
    return tuple(sorted((*without(nodes, node.index), node), key=lambda n: n.index))


def terminating(node: NodePod, **changes: Any) -> NodePod:
    """Return the node's pod while it is being deleted."""
    return replace(node, phase=Phase.TERMINATING, **changes)


def suspended(job: TorchrunJob, suspend: bool = True) -> TorchrunJob:
    """Return the job after a change of spec.suspend."""
    return job.model_copy(update={"spec": job.spec.model_copy(update={"suspend": suspend})})


def scaled(job: TorchrunJob, replicas: int) -> TorchrunJob:
    """Return the job after a change of spec.replicas."""
    return job.model_copy(update={"spec": job.spec.model_copy(update={"replicas": replicas})})
