"""The facts of one pass: everything that its decision depends on, including the time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from torchrun_operator.api.conditions import has_ended
from torchrun_operator.api.names import node_name
from torchrun_operator.api.v1alpha1 import TorchrunJob
from torchrun_operator.core.facts.words import Words
from torchrun_rendezvous.protocol import RendezvousState


class Phase(StrEnum):
    """The phase of a node pod.

    Terminating wins over what the containers do. Lost wins over Terminating: the Kubernetes node of the pod is gone or
    silent, so no kubelet ends the pod or reports its end.
    """

    PENDING = "Pending"
    STARTING = "Starting"
    RUNNING = "Running"
    TERMINATING = "Terminating"
    LOST = "Lost"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


LIVE = frozenset({Phase.PENDING, Phase.STARTING, Phase.RUNNING})
"""A node in one of these phases trains, or may train later."""
GONE = frozenset({Phase.LOST, Phase.TERMINATING, Phase.FAILED})
"""A node in one of these phases does not return."""


class Cause(StrEnum):
    """Why a node or a round ended: the keys of status.restarts."""

    CODE = "code"
    INFRASTRUCTURE = "infrastructure"
    PREEMPTION = "preemption"
    RESIZE = "resize"


class Stage(StrEnum):
    """What the spec asks the job to do."""

    ACTIVE = "Active"
    SUSPENDED = "Suspended"
    ENDED = "Ended"


@dataclass(frozen=True)
class Exit:
    """How the trainer container ended, or the container whose failure kept it from starting."""

    code: int
    """Exit code of the container; -1 if the pod failed before the container ran."""
    reason: str
    """The reason that Kubernetes gives: Error, OOMKilled, StartError, Evicted…"""
    message: str
    """The worker's own message (torchrun's error file) if there is one, else the message of Kubernetes."""
    finished_at: datetime | None
    container: str = ""
    """The container that ended, if it is not the trainer container."""
    of_pod: bool = False
    """Reason and message are of the whole pod: Kubernetes rejected it or ended it."""


@dataclass(frozen=True)
class Wait:
    """Why a pod does not run yet. Without a reason, it does not wait or the cause is unknown."""

    reason: str = ""
    """One word of the scheduler or the kubelet: Unschedulable, ErrImagePull, FailedMount…"""
    message: str = ""
    container: str = ""
    """The container that waits. Empty: the pod as a whole."""
    ended: Exit | None = None
    """How that container last ended, if it is started again and again."""
    since: datetime | None = None
    """By the clock of the Kubernetes node."""


NO_WAIT = Wait()


@dataclass(frozen=True)
class NodePod:
    """The pod of one node of the job."""

    index: int
    name: str
    uid: str
    phase: Phase
    address: str | None = None
    machine: str | None = None
    """The Kubernetes node that it runs on."""
    created_at: datetime | None = None
    started_at: datetime | None = None
    """When the kubelet accepted the pod."""
    stop_requested_at: datetime | None = None
    """When its deletion was requested, by the clock of the API server."""
    grace_seconds: int = 0
    """Seconds from that request until the kubelet kills the pod."""
    finalizers: tuple[str, ...] = ()
    """What keeps the pod after its deletion until another program removes it."""
    disruption: str = ""
    """Why Kubernetes disrupts the pod, as one word: preemption, eviction, taint. Empty: it does not."""
    trouble: str = ""
    """What happened to its Kubernetes node, if the pod is lost."""
    exit: Exit | None = None
    scheduled: bool = False
    lingers: bool = False
    """The trainer container has ended, and other containers still run."""
    over: bool = False
    """It is being deleted, and all its containers have ended."""
    stopping: bool = False
    """The operator has asked the kubelet to end the containers."""
    runs_since: datetime | None = None
    """When the trainer container started, by the clock of its Kubernetes node."""
    wait: Wait = NO_WAIT
    outdated: bool = False
    """The pod was made from an earlier spec."""
    lead: str = ""
    """In a static job: the uid of the lead's pod that the pod started with. Empty: it is the lead's."""

    @property
    def live(self) -> bool:
        """Whether it trains or may train later."""
        return self.phase in LIVE


@dataclass(frozen=True)
class RendezvousPod:
    """The pod of the rendezvous host."""

    name: str
    uid: str
    phase: Phase
    address: str | None = None
    ready: bool = False
    token_digest: str = ""
    started_at: datetime | None = None
    trouble: str = ""
    """What happened to its Kubernetes node, if the pod is lost."""
    wait: Wait = NO_WAIT
    outdated: bool = False
    """The pod was made from an earlier spec."""


@dataclass(frozen=True)
class UploadExit:
    """How the container of one output ended."""

    position: int
    """Of the output in the spec."""
    code: int
    reason: str = ""
    message: str = ""
    """What the program wrote, or what Kubernetes says."""


@dataclass(frozen=True)
class UploadPod:
    """The pod that uploads the outputs."""

    name: str
    uid: str
    phase: Phase
    digest: str = ""
    """What it was asked to do."""
    exits: tuple[UploadExit, ...] = ()
    reason: str = ""
    """Why Kubernetes rejected or ended the whole pod."""
    message: str = ""
    trouble: str = ""
    """What happened to its Kubernetes node, if the pod is lost."""
    wait: Wait = NO_WAIT


@dataclass(frozen=True)
class Facts:
    """Everything that a decision depends on."""

    job: TorchrunJob
    now: datetime
    nodes: tuple[NodePod, ...] = ()
    """The pods of the job's nodes, by index. Each index has one at most."""
    former: tuple[NodePod, ...] = ()
    """Pods that still exist although another pod has their index."""
    rendezvous_pod: RendezvousPod | None = None
    upload_pod: UploadPod | None = None
    rendezvous: RendezvousState | None = None
    """The last state document of the rendezvous host. None: it does not answer. Of a static job: what its pods tell."""
    token_digest: str = ""
    """The digest that the rendezvous pod should have."""
    refusal: str = ""
    """The message with which the API server last refused an object of the job. Empty: it refuses none."""
    refused: frozenset[str] | None = None
    """Names of the pods that the API server refused last. None: a restarted operator does not know which ones."""
    name_taken: bool = False
    """The refusal is about an object with that name and another owner."""
    foreign: tuple[str, ...] = ()
    """Names of pods with the job's label and another owner."""
    judged_at: datetime | None = None
    """When the next pod on a silent Kubernetes node counts as lost if nothing changes."""
    said: Mapping[str, Words] = field(default_factory=dict)
    """The errors of failed workers, by pod, for the pods whose logs were read."""

    def pod_name(self, index: int) -> str:
        """Return the name of the node's pod, or the usual one if it has none."""
        return next((node.name for node in self.nodes if node.index == index), node_name(self.job.metadata.name, index))

    @property
    def stage(self) -> Stage:
        """What the job is asked to do. A job that has ended stays so, even if it is suspended later."""
        if has_ended(self.job.status.conditions):
            return Stage.ENDED
        return Stage.SUSPENDED if self.job.spec.suspend or self.outdated else Stage.ACTIVE

    @property
    def outdated(self) -> bool:
        """Whether pods of an earlier spec are still to be deleted: the job was suspended, and no pass has seen that."""
        pods: list[NodePod | RendezvousPod] = [
            *self.nodes,
            *([self.rendezvous_pod] if self.rendezvous_pod is not None else []),
        ]
        return any(pod.outdated and pod.phase is not Phase.TERMINATING for pod in pods)
