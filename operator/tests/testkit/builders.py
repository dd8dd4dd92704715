"""Jobs, pods and rendezvous states for tests, each complete and plausible unless a test says otherwise."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from torchrun_operator.api.v1alpha1 import TorchrunJob, TorchrunJobStatus, job_of
from torchrun_operator.core import decide as core
from torchrun_operator.core.decide import Decision
from torchrun_operator.core.facts.model import Exit, Facts, NodePod, Phase, RendezvousPod
from torchrun_rendezvous.protocol import Member, RendezvousState, RoundsEnded, Target, Unrequested

NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
CREATED = NOW - timedelta(minutes=10)
"""When pods were made: long enough ago for a failed one to be replaced at once."""
DIGEST = "d1" * 32

Manifest = dict[str, Any]


def at(seconds: float) -> datetime:
    """Return the moment that many seconds after NOW."""
    return NOW + timedelta(seconds=seconds)


def job_manifest(name: str = "digits", **spec: Any) -> Manifest:
    """Return a job as it is stored; spec fields by their names on the wire."""
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


def make_job(status: TorchrunJobStatus | None = None, *, generation: int = 1, **spec: Any) -> TorchrunJob:
    """Return the job `digits`, 3 of 2:4 nodes wanted unless the spec says otherwise."""
    job = job_of(job_manifest(**spec))
    metadata = job.metadata.model_copy(update={"generation": generation})
    return job.model_copy(update={"metadata": metadata, "status": status or TorchrunJobStatus()})


def make_node(index: int, phase: Phase = Phase.RUNNING, *, life: int = 1, **changes: Any) -> NodePod:
    """Return a node's pod; `life` tells pods of one index apart."""
    placed = phase is not Phase.PENDING
    defaults: dict[str, Any] = {
        "address": f"10.0.{life}.{index}" if phase not in (Phase.PENDING, Phase.STARTING) else None,
        "machine": f"machine-{index}" if placed else None,
        "scheduled": placed,
        "created_at": CREATED,
        "started_at": CREATED if placed else None,
    }
    return NodePod(index, f"digits-{index}", f"pod-{index}-{life}", phase, **{**defaults, **changes})


def failed(index: int, code: int = 1, reason: str = "Error", message: str = "", **changes: Any) -> NodePod:
    """Return a node's pod whose trainer has just ended badly."""
    return make_node(index, Phase.FAILED, exit=Exit(code, reason, message, NOW), **changes)


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
    """Return the state of a host that was last told to keep these addresses out."""
    return replace(state, target=Target(1, 3, 2, 15.0, leavers))


def seen(*nodes: NodePod, rendezvous: RendezvousState | None = None, **changes: Any) -> Facts:
    """Return facts with these nodes and a rendezvous pod that runs."""
    return facts(nodes=nodes, rendezvous=rendezvous, **{"rendezvous_pod": HOST, "token_digest": DIGEST, **changes})


def facts(**parts: Any) -> Facts:
    """Return facts of which only these are known; job and time are plausible ones unless a test says otherwise."""
    return Facts(**{"job": make_job(), "now": NOW, **parts})


def decide(job: TorchrunJob, found: Facts, now: datetime) -> Decision:
    """Decide about that job, at that time, from what else was found."""
    return core.decide(replace(found, job=job, now=now))


def after(job: TorchrunJob, found: Facts, now: datetime = NOW) -> TorchrunJob:
    """Return the job as it is once the decision's status is stored and read again."""
    return stored(job, decide(job, found, now))


def stored(job: TorchrunJob, decision: Decision) -> TorchrunJob:
    """Return the job with that decision's status, once round the wire."""
    return job.model_copy(update={"status": TorchrunJobStatus.model_validate(decision.status.wire())})


THREE = tuple(make_node(index) for index in range(3))


def training_job(*nodes: NodePod, now: datetime = NOW - timedelta(minutes=5), **spec: Any) -> TorchrunJob:
    """Return a job whose status says that these nodes (three unless told otherwise) train."""
    nodes = nodes or THREE
    return after(make_job(**spec), seen(*nodes, rendezvous=make_rendezvous(*nodes)), now)


def without(nodes: tuple[NodePod, ...], index: int) -> tuple[NodePod, ...]:
    """Return the nodes except the one of that index."""
    return tuple(node for node in nodes if node.index != index)


def instead(nodes: tuple[NodePod, ...], node: NodePod) -> tuple[NodePod, ...]:
    """Return the nodes with the one of the same index replaced."""
    return tuple(sorted((*without(nodes, node.index), node), key=lambda n: n.index))


def terminating(node: NodePod, **changes: Any) -> NodePod:
    """Return the node's pod while it is being deleted."""
    return replace(node, phase=Phase.TERMINATING, **changes)


def suspended(job: TorchrunJob, suspend: bool = True) -> TorchrunJob:
    """Return the job after somebody has set spec.suspend."""
    return job.model_copy(update={"spec": job.spec.model_copy(update={"suspend": suspend})})


def scaled(job: TorchrunJob, replicas: int) -> TorchrunJob:
    """Return the job after somebody has set spec.replicas."""
    return job.model_copy(update={"spec": job.spec.model_copy(update={"replicas": replicas})})
