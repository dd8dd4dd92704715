"""The frozen picture that decisions are made from: pods and rendezvous as the operator saw them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from torchrun_operator.core.words import Words


class Phase(StrEnum):
    """Where a node pod stands. Terminating wins over what its containers do, and Lost over that: its machine is gone
    or silent, so nobody will end it or tell of its end.
    """

    PENDING = "Pending"
    STARTING = "Starting"
    RUNNING = "Running"
    TERMINATING = "Terminating"
    LOST = "Lost"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class Cause(StrEnum):
    """Why a node or a round ended: the keys of status.restarts."""

    CODE = "code"
    INFRASTRUCTURE = "infrastructure"
    PREEMPTION = "preemption"
    RESIZE = "resize"


@dataclass(frozen=True)
class Exit:
    """How the trainer container ended."""

    code: int
    reason: str
    """What Kubernetes calls it: Error, OOMKilled, StartError, Evicted…"""
    message: str
    """The worker's own words where it left any (torchrun's error file), else what Kubernetes says."""
    finished_at: datetime | None


@dataclass(frozen=True)
class NodePod:
    """One node of the job. Waiting is the reason its container or scheduling waits, with a message for people."""

    index: int
    name: str
    uid: str
    phase: Phase
    address: str | None = None
    machine: str | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    """When its machine took it on."""
    disruption: str = ""
    """Why Kubernetes ended it on purpose, in its word: preemption, eviction, taint; empty: it did not."""
    trouble: str = ""
    """What happened to its machine, if it is lost."""
    exit: Exit | None = None
    scheduled: bool = False
    lingers: bool = False
    """Its trainer has ended, other containers have not."""
    waiting_reason: str = ""
    waiting_message: str = ""

    @property
    def live(self) -> bool:
        """Whether it trains or may yet come to train."""
        return self.phase in (Phase.PENDING, Phase.STARTING, Phase.RUNNING)


@dataclass(frozen=True)
class RendezvousPod:
    """The pod that hosts the store."""

    name: str
    uid: str
    phase: Phase
    address: str | None = None
    ready: bool = False
    token_digest: str = ""
    started_at: datetime | None = None
    trouble: str = ""
    """What happened to its machine, if it is lost."""
    waiting_reason: str = ""
    waiting_message: str = ""


@dataclass(frozen=True)
class Progress:
    """What the training script last said of itself."""

    step: int
    time: datetime
    total_steps: int | None = None
    epoch: int | None = None
    loss: float | None = None
    samples_per_second: float | None = None
    world_size: int | None = None
    snapshot_step: int | None = None
    snapshot_time: datetime | None = None
    slow_rank: int | None = None
    """The rank that the others have long been waiting for at every step; None: none."""
    slow_node: int | None = None
    """The group rank of its node."""
    slow_seconds: float | None = None
    """How long they wait for it, of the step_seconds that a step takes."""
    step_seconds: float | None = None


@dataclass(frozen=True)
class Overdue:
    """A round whose workers report no other step, longer than the host was told to wait."""

    round: int
    step: int | None
    """The last that it has reported."""
    starting: bool
    """It has not reported two yet."""
    seconds: float
    """How long the host waited at least."""
    since: datetime
    """When it had reported that step, or began, by the host's clock."""


@dataclass(frozen=True)
class Pace:
    """How long the training takes at most, as the host has seen it: from step to step, and until a round has two."""

    longest_pause_seconds: float = 0.0
    longest_start_seconds: float | None = None
    """None: no round has started yet, so nobody knows that the script reports at all."""
    overdue: Overdue | None = None


@dataclass(frozen=True)
class Rendezvous:
    """The state of torchrun's c10d rendezvous, as its host last told."""

    instance: str
    """One per life of the store."""
    round: int
    complete: bool
    closed: bool
    finished: int = 0
    """Agents whose workers have all succeeded: they wait for the others to end too."""
    members: tuple[tuple[str, int], ...] = ()
    """(address, group rank) of who is in the round."""
    waiting: tuple[str, ...] = ()
    silent: tuple[str, ...] | None = None
    """Nodes that give no sign of life; None: the host does not say."""
    missing: tuple[str, ...] = ()
    """Who was in a round that had to end, and has not come to the next for a minute."""
    leavers: tuple[str, ...] = ()
    """Whom it was last told to keep out."""
    unrequested: int = 0
    """Rounds that ended because a member's workers failed, in this life of the store."""
    last_unrequested_at: datetime | None = None
    last_unrequested_by: tuple[str, ...] = ()
    completed_at: datetime | None = None
    """When the newest complete round was."""
    progress: Progress | None = None
    pace: Pace = Pace()

    def hears(self, address: str | None) -> bool:
        """Whether the agent at that address has been heard of lately, as far as the host can tell."""
        if self.silent is None or address in self.silent:
            return False
        return address in self.waiting or any(address == member for member, _ in self.members)


@dataclass(frozen=True)
class Observed:
    """Everything a decision may depend on besides the job and the time."""

    nodes: tuple[NodePod, ...] = ()
    """The job's own, by index."""
    rendezvous_pod: RendezvousPod | None = None
    rendezvous: Rendezvous | None = None
    """None: its host has not answered (yet)."""
    token_digest: str = ""
    """What the rendezvous pod's should be."""
    refusal: str = ""
    """What the API server said when it last refused one of this job's objects; empty: it refuses none."""
    name_taken: bool = False
    """That was because an object of that name belongs to somebody else."""
    foreign: tuple[str, ...] = ()
    """Names of pods in the job's place that belong to somebody else."""
    said: Mapping[str, Words] = field(default_factory=dict)
    """What workers that failed said, by pod, where the logs were read."""
