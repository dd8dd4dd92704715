"""Conditions of a TorchrunJob: types, reasons, and how to set one."""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from torchrun_operator.api.base import Time, TolerantModel, cut

MESSAGE_CHARACTERS = 4096
"""Maximum size of a message. Kubernetes accepts 32768 bytes, and all messages of a job must fit into one object."""


class ConditionType(StrEnum):
    """The type of a condition, in the order of the list in the status."""

    ACCEPTED = "Accepted"
    SUSPENDED = "Suspended"
    SCHEDULED = "Scheduled"
    RUNNING = "Running"
    RESIZING = "Resizing"
    STRAGGLING = "Straggling"
    COMPLETE = "Complete"
    FAILED = "Failed"
    OUTPUTS_UPLOADED = "OutputsUploaded"


class ConditionStatus(StrEnum):
    """The status of a condition."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Reason(StrEnum):
    """Why a condition has its status: one word for programs. The message is for people."""

    # Accepted
    VALID = "Valid"
    INVALID_SPEC = "InvalidSpec"
    REFUSED_BY_CLUSTER = "RefusedByCluster"
    NAME_TAKEN = "NameTaken"
    # Suspended
    SUSPENDED = "Suspended"
    SUSPENDING = "Suspending"
    NOT_SUSPENDED = "NotSuspended"
    # Scheduled
    ALL_SCHEDULED = "AllScheduled"
    WAITING_FOR_CAPACITY = "WaitingForCapacity"
    WAITING_FOR_PODS = "WaitingForPods"
    # Running
    TRAINING = "Training"
    WAITING_FOR_NODES = "WaitingForNodes"
    STARTING_RENDEZVOUS = "StartingRendezvous"
    PODS_WAITING = "PodsWaiting"
    OTHER_RENDEZVOUS = "OtherRendezvous"
    TRAINS_ELSEWHERE = "TrainsElsewhere"
    BACK_OFF = "BackOff"
    ENDED = "Ended"
    # Resizing
    REPLICAS_CHANGED = "ReplicasChanged"
    NODE_LOST = "NodeLost"
    RESTARTING_WORKERS = "RestartingWorkers"
    RESTARTING_ALL = "RestartingAllNodes"
    SLOW_TO_STOP = "SlowToStop"
    SETTLED = "Settled"
    SHORT_OF_NODES = "ShortOfNodes"
    # Straggling
    SLOW_WORKER = "SlowWorker"
    EVEN_PACE = "EvenPace"
    # Complete
    FINISHED = "Finished"
    # Failed
    MAX_RESTARTS_EXCEEDED = "MaxRestartsExceeded"
    FAILURE_POLICY = "FailurePolicy"
    NEVER_TRAINED = "NeverTrained"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    """Also a reason of Resizing, while the workers restart."""
    # OutputsUploaded
    UPLOADED = "Uploaded"
    UPLOADING = "Uploading"
    UPLOADING_PERIODICALLY = "UploadingPeriodically"
    UPLOAD_FAILED = "UploadFailed"
    NOT_UPLOADED = "NotUploaded"
    INVALID_OUTPUTS = "InvalidOutputs"


class Condition(TolerantModel):
    """One condition, as in metav1.Condition."""

    type: Annotated[str, Field(description="Type of the condition.", max_length=316)]
    status: Annotated[ConditionStatus, Field(description="Status of the condition: True, False or Unknown.")]
    reason: Annotated[
        str,
        Field(description="Why the condition has this status, in one CamelCase word for programs.", max_length=1024),
    ]
    message: Annotated[
        str,
        Field(description="What happened and what you can do, for people.", max_length=32768),
        cut(MESSAGE_CHARACTERS),
    ] = ""
    last_transition_time: Annotated[Time, Field(description="When the status last changed.")]
    observed_generation: Annotated[
        int | None, Field(description="The metadata.generation that the condition describes.", ge=0)
    ] = None


def find_condition(conditions: Iterable[Condition], type_: ConditionType) -> Condition | None:
    """Return the condition of that type, or None if it is not set."""
    return next((condition for condition in conditions if condition.type == type_), None)


def is_true(conditions: Iterable[Condition], type_: ConditionType) -> bool:
    """Whether the condition is set and True."""
    condition = find_condition(conditions, type_)
    return condition is not None and condition.status is ConditionStatus.TRUE


def has_ended(conditions: Iterable[Condition]) -> bool:
    """Whether the job is complete or has failed. Both are final."""
    known = tuple(conditions)
    return is_true(known, ConditionType.COMPLETE) or is_true(known, ConditionType.FAILED)


def set_condition(
    conditions: Iterable[Condition],
    type_: ConditionType,
    status: ConditionStatus | bool,
    reason: Reason | str,
    message: str,
    *,
    now: datetime,
    generation: int | None = None,
) -> tuple[Condition, ...]:
    """Return the conditions with one of them set. Its transition time changes only with its status.

    ``generation`` is the metadata.generation of the job. The result has the order of :class:`ConditionType`.
    """
    if isinstance(status, bool):
        status = ConditionStatus.TRUE if status else ConditionStatus.FALSE
    known = tuple(conditions)
    old = find_condition(known, type_)
    new = Condition(
        type=str(type_),
        status=status,
        reason=str(reason),
        message=message,
        last_transition_time=old.last_transition_time if old is not None and old.status is status else now,
        observed_generation=generation,
    )
    return tuple(sorted([*(c for c in known if c.type != type_), new], key=_order))


def _order(condition: Condition) -> tuple[int, str]:
    types = [str(type_) for type_ in ConditionType]
    return (types.index(condition.type) if condition.type in types else len(types), condition.type)
