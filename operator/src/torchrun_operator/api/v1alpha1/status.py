"""The observed state of a TorchrunJob. Only the operator writes it."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from torchrun_operator.api.base import Time, TolerantModel, cut
from torchrun_operator.api.conditions import MESSAGE_CHARACTERS, Condition
from torchrun_operator.api.names import MAX_ROUNDS, MAX_TRANSFERS


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
    """How the membership last changed."""

    time: Annotated[Time, Field(description="When the operator noticed the change.")]
    cause: Annotated[str, Field(description="Why the membership changed, in one word.", max_length=64)]
    recovery_seconds: Annotated[
        float | None,
        Field(
            description="Seconds until the next round took a step, or formed if the script reports none. "
            "Unset until then.",
            ge=0,
        ),
    ] = None
    lost_steps: Annotated[
        int | None, Field(description="Training steps that had to be repeated, if progress is known.", ge=0)
    ] = None


class Membership(TolerantModel):
    """The nodes that train together."""

    round: Annotated[
        Count,
        Field(description="Number of the rendezvous round. It never falls, also where the rendezvous host restarts."),
    ] = 0
    nodes: Annotated[Count, Field(description="Number of nodes that train now.")] = 0
    world_size: Annotated[
        int | None, Field(description="Number of workers that train now. Unset while it is unknown.", ge=0)
    ] = None
    desired_nodes: Annotated[Count, Field(description="Number of nodes wanted now.")] = 0
    spares: Annotated[
        int | None, Field(description="Number of spares that are ready to take over. Unset if the job has none.", ge=0)
    ] = None
    summary: Annotated[
        str, Field(description="Number of nodes that train, and MIN:MAX. Example: 3/2:4.", max_length=64)
    ] = ""
    instance: Annotated[
        str | None, Field(description="ID of the rendezvous host process that the round belongs to.", max_length=128)
    ] = None
    last_change: Annotated[MembershipChange | None, Field(description="How the membership last changed.")] = None


class Restarts(TolerantModel):
    """Restarts by cause. Only those with the cause code count against ``spec.maxRestarts``."""

    code: Annotated[Count, Field(description="Failures of the user's code.")] = 0
    infrastructure: Annotated[Count, Field(description="Losses of a node or of the rendezvous host.")] = 0
    preemption: Annotated[Count, Field(description="Nodes that were preempted, evicted or drained.")] = 0
    resize: Annotated[Count, Field(description="Changes of the number of wanted nodes.")] = 0


class Failure(TolerantModel):
    """The last failure or loss of a node or its workers."""

    time: Annotated[Time, Field(description="When the failure happened, as far as known.")]
    cause: Annotated[str, Field(description="The key of status.restarts that counts this failure.", max_length=64)]
    pod: Annotated[str | None, Field(description="The pod that failed first.", max_length=253)] = None
    machine: Annotated[str | None, Field(description="The Kubernetes node that the pod ran on.", max_length=253)] = None
    container: Annotated[
        str | None,
        Field(description="The container that failed, if it is not the one that runs torchrun.", max_length=63),
    ] = None
    rank: Annotated[
        int | None, Field(description="Rank of the worker that failed first, if a worker failed.", ge=0)
    ] = None
    exit_code: Annotated[
        int | None,
        Field(description="Exit code of the container or of the worker. Negative: the number of a signal."),
    ] = None
    signal: Annotated[
        str | None, Field(description="The signal that ended the process. Example: SIGKILL.", max_length=32)
    ] = None
    reason: Annotated[
        str | None,
        Field(
            description="WorkersFailed if the agent continues, OthersFinished if others have ended "
            "with exit code 0, or the reason from Kubernetes: Error, OOMKilled…",
            max_length=128,
        ),
        cut(128),
    ] = None
    message: Annotated[
        str, Field(description="What happened: the exception, or the last line of the log.", max_length=1024), cut(1024)
    ] = ""
    traceback: Annotated[
        str | None,
        Field(description="Beginning and end of the traceback, or the last lines of the log.", max_length=2048),
        cut(2048),
    ] = None
    rule: Annotated[
        int | None,
        Field(description="Position of the rule in spec.failurePolicy.rules that decided, from 0.", ge=0),
    ] = None
    action: Annotated[str | None, Field(description="What that rule said.", max_length=64)] = None


class RendezvousStatus(TolerantModel):
    """What the operator has already counted, so that it counts nothing twice."""

    instance: Annotated[
        str | None, Field(description="ID of the rendezvous host process that the counts belong to.", max_length=128)
    ] = None
    unrequested: Annotated[Count, Field(description="Unrequested ends of rounds in that process, counted so far.")] = 0
    since: Annotated[Time | None, Field(description="When the operator first observed that process.")] = None
    first_round: Annotated[
        int | None,
        Field(description="Number of round 0 of that process in status.membership. Unset for the first process.", ge=0),
    ] = None
    no_round_since: Annotated[
        Time | None,
        Field(description="When the operator first saw that nodes succeeded although no round was ever complete."),
    ] = None
    hung_round: Annotated[
        int | None, Field(description="The last round of that process that was ended because the workers hung.", ge=0)
    ] = None
    lost_round: Annotated[
        int | None, Field(description="The last round of that process that a node was lost from or had to leave.", ge=0)
    ] = None
    failing_since: Annotated[
        Time | None,
        Field(description="When the operator first observed the failures of workers that it has not counted yet."),
    ] = None


class Refusal(TolerantModel):
    """What the API server refused of the job's objects, so that a restarted operator knows it at once."""

    message: Annotated[str, Field(description="What the API server said.", max_length=32768), cut(MESSAGE_CHARACTERS)]
    name_taken: Annotated[
        bool,
        Field(description="Whether an object of that name belongs to another owner."),
    ] = False


class Progress(TolerantModel):
    """The progress that the training script reports."""

    step: Annotated[int | None, Field(description="Number of steps done.", ge=0)] = None
    total_steps: Annotated[int | None, Field(description="Total number of steps.", ge=0)] = None
    epoch: Annotated[int | None, Field(description="Number of epochs done.", ge=0)] = None
    loss: Annotated[float | None, Field(description="Training loss.")] = None
    samples_per_second: Annotated[
        float | None, Field(description="Samples per second, all workers together.", ge=0)
    ] = None
    world_size: Annotated[int | None, Field(description="Number of workers that took the step.", ge=0)] = None
    snapshot_step: Annotated[int | None, Field(description="Step of the newest snapshot.", ge=0)] = None
    snapshot_time: Annotated[Time | None, Field(description="When the newest snapshot was taken.")] = None
    time: Annotated[Time | None, Field(description="When the script reported this.")] = None


class Goodput(TolerantModel):
    """How much of the time since the first step counts. Time suspended is left out."""

    ratio: Annotated[float | None, Field(description="Share of the training seconds.", ge=0, le=1)] = None
    since: Annotated[Time, Field(description="When the first step was reported.")]
    first_step: Annotated[Count, Field(description="Number of that step.")] = 0
    training_seconds: Annotated[Count, Field(description="Seconds of the steps that count.")] = 0
    lost_seconds: Annotated[Count, Field(description="Seconds of recoveries and repeated steps.")] = 0


class RoundStatus(TolerantModel):
    """One round of the recent past."""

    round: Annotated[Count, Field(description="Number of the round.")]
    nodes: Annotated[Count, Field(description="Number of its members.")]
    began: Annotated[Time, Field(description="When it was complete.")]
    step: Annotated[int | None, Field(description="The last step known then.", ge=0)] = None
    cause: Annotated[str | None, Field(description="Why the last one ended.", max_length=64)] = None


class Straggler(TolerantModel):
    """The worker that all others wait for at every step."""

    rank: Annotated[Count, Field(description="Rank of the worker.")]
    pod: Annotated[str, Field(description="Name of the pod of the worker.", max_length=253)] = ""
    machine: Annotated[str | None, Field(description="The Kubernetes node that the pod runs on.", max_length=253)] = (
        None
    )
    lag_seconds: Annotated[float, Field(description="Seconds that the others wait for the worker in each step.", ge=0)]
    step_seconds: Annotated[float, Field(description="Seconds that a step takes.", ge=0)]


class BackOff(TolerantModel):
    """How often the pods of a node ended soon after their start, and how long the next one waits."""

    failures: Annotated[Count, Field(description="How many pods in a row ended soon after their start.")]
    retry_time: Annotated[Time, Field(description="When the operator replaces the pod that ended last.")]
    running_since: Annotated[
        Time | None,
        Field(
            description="When the operator first saw the trainer container of the replacement run. After a minute, the "
            "count begins again."
        ),
    ] = None


class NodeStatus(TolerantModel):
    """One node of the job."""

    index: Annotated[Count, Field(description="Index of the node.")]
    pod: Annotated[str, Field(description="Name of the pod of the node.", max_length=253)]
    uid: Annotated[
        str, Field(description="The metadata.uid of the pod. A replacement has another one.", max_length=64)
    ] = ""
    machine: Annotated[str | None, Field(description="The Kubernetes node that the pod runs on.", max_length=253)] = (
        None
    )
    phase: Annotated[str | None, Field(description="Phase of the pod.", max_length=32)] = None
    address: Annotated[str | None, Field(description="Address of the pod.", max_length=64)] = None
    rank: Annotated[int | None, Field(description="Group rank in the current round.", ge=0)] = None
    spare: Annotated[
        bool | None, Field(description="Whether the node is a spare: the current round is full, and the node waits.")
    ] = None
    back_off: Annotated[
        BackOff | None, Field(description="Set if the last pod of the node ended soon after its start.")
    ] = None
    start_counted: Annotated[
        bool | None,
        Field(
            description="Whether a failure of the code was counted while the pod had not trained yet. If the pod fails "
            "in that start as well, it is the same failure."
        ),
    ] = None


class OutputState(StrEnum):
    """The state of an output in one word."""

    WAITING = "Waiting"
    UPLOADING = "Uploading"
    UPLOADED = "Uploaded"
    FAILED = "Failed"
    SKIPPED = "Skipped"


class OutputStatus(TolerantModel):
    """One output of the job."""

    path: Annotated[str, Field(description="The path of the output in the spec.", max_length=256)]
    url: Annotated[str, Field(description="The URL of the output in the spec.", max_length=1024)]
    state: Annotated[
        OutputState,
        Field(
            description="Waiting: for the end of the training. Uploading. Uploaded: the manifest is at the URL. "
            "Failed. Skipped: the job has failed, and the output is for complete jobs only."
        ),
    ] = OutputState.WAITING
    files: Annotated[int | None, Field(description="Number of files of the last upload.", ge=0)] = None
    bytes: Annotated[int | None, Field(description="Bytes of these files.", ge=0)] = None
    message: Annotated[str, Field(description="Why the upload failed.", max_length=1024), cut(1024)] = ""


class Upload(TolerantModel):
    """What the operator has recorded about the upload, so that it repeats nothing."""

    digest: Annotated[str, Field(description="Digest of what is uploaded, and when.", max_length=64)]
    state: Annotated[
        OutputState | None, Field(description="How this upload ended: Uploaded or Failed. Unset until then.")
    ] = None
    interrupted: Annotated[Count, Field(description="How many pods were interrupted before they ended.")] = 0
    pod: Annotated[
        str | None, Field(description="The metadata.uid of the last pod that was interrupted.", max_length=64)
    ] = None
    retry_time: Annotated[Time | None, Field(description="When the operator replaces that pod.")] = None


class TorchrunJobStatus(TolerantModel):
    """The observed state of a TorchrunJob."""

    observed_generation: Annotated[
        int | None, Field(description="The metadata.generation that this status describes.", ge=0)
    ] = None
    state: Annotated[JobState, Field(description="The job in one word.")] = JobState.PENDING
    message: Annotated[
        str,
        Field(
            description="Why the job is in this state, in one line: the message of the condition that decides it.",
            max_length=256,
        ),
    ] = ""
    conditions: Annotated[
        tuple[Condition, ...], Field(description="The state in detail. Programs should read these.", max_length=32)
    ] = ()
    replicas: Annotated[Count, Field(description="Number of node pods that have not finished, without spares.")] = 0
    ready_replicas: Annotated[Count, Field(description="Number of ready node pods, without spares.")] = 0
    selector: Annotated[
        str | None, Field(description="Label selector of the node pods, for autoscalers.", max_length=1024)
    ] = None
    membership: Annotated[Membership, Field(description="The nodes that train together.")] = Membership()
    restarts: Annotated[Restarts, Field(description="Restarts by cause.")] = Restarts()
    restart_count: Annotated[Count, Field(description="Restarts for any cause but resize.")] = 0
    last_failure: Annotated[Failure | None, Field(description="The last failure or loss of a node or its workers.")] = (
        None
    )
    rendezvous: Annotated[RendezvousStatus, Field(description="What the operator has already counted.")] = (
        RendezvousStatus()
    )
    refusal: Annotated[
        Refusal | None, Field(description="What the API server last refused of the job's objects; unset if nothing.")
    ] = None
    progress: Annotated[Progress | None, Field(description="The progress that the training script reports.")] = None
    goodput: Annotated[Goodput | None, Field(description="How much of the time trained the model.")] = None
    rounds: Annotated[tuple[RoundStatus, ...] | None, Field(description="The last rounds.", max_length=MAX_ROUNDS)] = (
        None
    )
    straggler: Annotated[
        Straggler | None, Field(description="The worker that all others wait for at every step, if there is one.")
    ] = None
    start_time: Annotated[Time | None, Field(description="When the operator first started the job.")] = None
    completion_time: Annotated[Time | None, Field(description="When the job completed or failed.")] = None
    outputs: Annotated[
        tuple[OutputStatus, ...] | None,
        Field(description="The outputs of the job, as in the spec. Unset if there are none.", max_length=MAX_TRANSFERS),
    ] = None
    upload: Annotated[Upload | None, Field(description="What the operator has recorded about the upload.")] = None
    nodes: Annotated[tuple[NodeStatus, ...], Field(description="The nodes of the job, by index.", max_length=1000)] = ()
