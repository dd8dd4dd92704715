"""The observed state of a TorchrunJob, written by the operator alone."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from torchrun_operator.api.base import Time, TolerantModel
from torchrun_operator.api.conditions import Condition


class JobState(StrEnum):
    """The job in one word."""

    PENDING = "Pending"
    STARTING = "Starting"
    RUNNING = "Running"
    RESIZING = "Resizing"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"
    INVALID = "Invalid"


Count = Annotated[int, Field(ge=0)]


class MembershipChange(TolerantModel):
    """How the world last changed."""

    time: Annotated[Time, Field(description="When the change was noticed.")]
    cause: Annotated[str, Field(description="Why the world changed, in one CamelCase word.", max_length=64)]
    recovery_seconds: Annotated[
        float | None, Field(description="Seconds until the next world trained; unset until it does.", ge=0)
    ] = None
    lost_steps: Annotated[
        int | None, Field(description="Training steps that had to be repeated, where progress is known.", ge=0)
    ] = None


class Membership(TolerantModel):
    """The nodes that train together."""

    round: Annotated[Count, Field(description="Rendezvous round, counted from the rendezvous host's start.")] = 0
    nodes: Annotated[Count, Field(description="Nodes that train now.")] = 0
    world_size: Annotated[Count, Field(description="Worker processes that train now.")] = 0
    desired_nodes: Annotated[Count, Field(description="Nodes wanted now.")] = 0
    spares: Annotated[
        int | None, Field(description="Spare nodes that wait, ready to take over; unset in a job without.", ge=0)
    ] = None
    summary: Annotated[str, Field(description="Nodes that train, of MIN:MAX. Example: 3/2:4.", max_length=64)] = ""
    instance: Annotated[
        str | None, Field(description="The rendezvous host process that the round belongs to.", max_length=128)
    ] = None
    last_change: Annotated[MembershipChange | None, Field(description="How the world last changed.")] = None


class Restarts(TolerantModel):
    """Restarts by cause; only those by code count against ``spec.maxRestarts``."""

    code: Annotated[Count, Field(description="The user's code failed.")] = 0
    infrastructure: Annotated[Count, Field(description="A node or the rendezvous host was lost.")] = 0
    preemption: Annotated[Count, Field(description="A node was preempted, evicted or drained.")] = 0
    resize: Annotated[Count, Field(description="The number of wanted nodes changed.")] = 0


class Failure(TolerantModel):
    """How a node or its workers last failed or were lost."""

    time: Annotated[Time, Field(description="When that was, as far as it is known.")]
    cause: Annotated[str, Field(description="The key of status.restarts that it was counted under.", max_length=64)]
    pod: Annotated[str | None, Field(description="The pod that failed first.", max_length=253)] = None
    machine: Annotated[str | None, Field(description="The cluster's node that it ran on.", max_length=253)] = None
    rank: Annotated[
        int | None, Field(description="Rank of the worker that failed first, where the failure is a worker's.", ge=0)
    ] = None
    exit_code: Annotated[
        int | None,
        Field(description="Exit code of the trainer container, or of the worker: minus the number of a signal."),
    ] = None
    signal: Annotated[str | None, Field(description="The signal that ended it. Example: SIGKILL.", max_length=32)] = (
        None
    )
    reason: Annotated[
        str | None,
        Field(description="WorkersFailed where agents go on, or Kubernetes' word: Error, OOMKilled…", max_length=128),
    ] = None
    message: Annotated[str, Field(description="What happened; of a worker, its exception.", max_length=1024)] = ""
    traceback: Annotated[
        str | None, Field(description="Beginning and end of the worker's traceback.", max_length=2048)
    ] = None


class RendezvousStatus(TolerantModel):
    """What the operator has already counted, so that it counts nothing twice."""

    instance: Annotated[
        str | None, Field(description="The rendezvous host process that was counted.", max_length=128)
    ] = None
    unrequested: Annotated[Count, Field(description="Unrequested ends of rounds counted so far in that process.")] = 0
    since: Annotated[Time | None, Field(description="When the operator first saw that process.")] = None
    hung_round: Annotated[
        int | None, Field(description="The last round in that process that was ended because it hung.", ge=0)
    ] = None


class Refusal(TolerantModel):
    """What the API server refused of the job's objects, so that a restarted operator knows it at once."""

    message: Annotated[str, Field(description="What the API server said.", max_length=32768)]
    name_taken: Annotated[
        bool,
        Field(description="Whether an object of that name belongs to another owner."),
    ] = False


class Progress(TolerantModel):
    """What the training script reports."""

    step: Annotated[int | None, Field(description="Training steps done.", ge=0)] = None
    total_steps: Annotated[int | None, Field(description="Training steps in all.", ge=0)] = None
    epoch: Annotated[int | None, Field(description="Epochs done.", ge=0)] = None
    loss: Annotated[float | None, Field(description="Training loss.")] = None
    samples_per_second: Annotated[float | None, Field(description="Samples per second, of all workers.", ge=0)] = None
    world_size: Annotated[int | None, Field(description="Worker processes that took the step.", ge=0)] = None
    snapshot_step: Annotated[int | None, Field(description="Step of the newest snapshot.", ge=0)] = None
    snapshot_time: Annotated[Time | None, Field(description="When the newest snapshot was taken.")] = None
    time: Annotated[Time | None, Field(description="When this was reported.")] = None


class Straggler(TolerantModel):
    """The worker that all others have long been waiting for, at every step."""

    rank: Annotated[Count, Field(description="Its rank.")]
    pod: Annotated[str, Field(description="The pod that it runs in.", max_length=253)] = ""
    machine: Annotated[str | None, Field(description="The cluster's node of that pod.", max_length=253)] = None
    lag_seconds: Annotated[float, Field(description="How long the others wait for it in a step.", ge=0)]
    step_seconds: Annotated[float, Field(description="How long a step takes.", ge=0)]


class NodeStatus(TolerantModel):
    """One node of the job."""

    index: Annotated[Count, Field(description="Index of the node.")]
    pod: Annotated[str, Field(description="Name of its pod.", max_length=253)]
    uid: Annotated[str, Field(description="The pod's metadata.uid: a pod replaced has another.", max_length=64)] = ""
    machine: Annotated[str | None, Field(description="The cluster's node that the pod runs on.", max_length=253)] = None
    phase: Annotated[str | None, Field(description="Phase of the pod.", max_length=32)] = None
    address: Annotated[str | None, Field(description="Address of the pod.", max_length=64)] = None
    rank: Annotated[int | None, Field(description="Group rank in the present round.", ge=0)] = None
    spare: Annotated[
        bool | None, Field(description="True: the present round is full without it, and it waits to take over.")
    ] = None


class TorchrunJobStatus(TolerantModel):
    """What the operator observed."""

    observed_generation: Annotated[
        int | None, Field(description="The metadata.generation that this status is about.", ge=0)
    ] = None
    state: Annotated[JobState, Field(description="The job in one word.")] = JobState.PENDING
    conditions: Annotated[
        tuple[Condition, ...], Field(description="The state in detail; read these in programs.", max_length=32)
    ] = ()
    replicas: Annotated[Count, Field(description="Node pods that exist and have not finished, spares not counted.")] = 0
    ready_replicas: Annotated[Count, Field(description="Node pods that are ready, spares not counted.")] = 0
    selector: Annotated[
        str | None, Field(description="Label selector of the node pods, for autoscalers.", max_length=1024)
    ] = None
    membership: Annotated[Membership, Field(description="The nodes that train together.")] = Membership()
    restarts: Annotated[Restarts, Field(description="Restarts by cause.")] = Restarts()
    restart_count: Annotated[Count, Field(description="All restarts.")] = 0
    last_failure: Annotated[
        Failure | None, Field(description="How a node or its workers last failed or were lost.")
    ] = None
    rendezvous: Annotated[
        RendezvousStatus, Field(description="What the operator has counted of the rendezvous host.")
    ] = RendezvousStatus()
    refusal: Annotated[
        Refusal | None, Field(description="What the API server last refused of the job's objects; unset if nothing.")
    ] = None
    progress: Annotated[Progress | None, Field(description="What the training script reports.")] = None
    straggler: Annotated[
        Straggler | None, Field(description="The worker that all others have long been waiting for, if there is one.")
    ] = None
    start_time: Annotated[Time | None, Field(description="When the operator first started the job.")] = None
    completion_time: Annotated[Time | None, Field(description="When the job completed or failed.")] = None
    nodes: Annotated[tuple[NodeStatus, ...], Field(description="The job's nodes, by index.", max_length=1000)] = ()
