"""Conditions of a TorchrunJob: their types and reasons, and how one is set."""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from torchrun_operator.api.base import Time, TolerantModel


class ConditionType(StrEnum):
    """What a condition is about, in the order in which conditions are listed."""

    ACCEPTED = "Accepted"
    SUSPENDED = "Suspended"
    SCHEDULED = "Scheduled"
    RUNNING = "Running"
    RESIZING = "Resizing"
    STRAGGLING = "Straggling"
    COMPLETE = "Complete"
    FAILED = "Failed"


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Reason(StrEnum):
    """Why a condition has its status; one word for programs, beside a message for people."""

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
    ENDED = "Ended"
    # Resizing
    REPLICAS_CHANGED = "ReplicasChanged"
    NODE_LOST = "NodeLost"
    RESTARTING_WORKERS = "RestartingWorkers"
    SETTLED = "Settled"
    SHORT_OF_NODES = "ShortOfNodes"
    # Straggling
    SLOW_WORKER = "SlowWorker"
    EVEN_PACE = "EvenPace"
    # Complete
    FINISHED = "Finished"
    # Failed
    MAX_RESTARTS_EXCEEDED = "MaxRestartsExceeded"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    """Also of Resizing, while the workers restart."""


class Condition(TolerantModel):
    """One condition, as in metav1.Condition."""

    type: Annotated[str, Field(description="What the condition is about.", max_length=316)]
    status: Annotated[ConditionStatus, Field(description="Whether the condition holds: True, False or Unknown.")]
    reason: Annotated[str, Field(description="Why, in one CamelCase word for programs.", max_length=1024)]
    message: Annotated[str, Field(description="What happened and what to do about it.", max_length=32768)] = ""
    last_transition_time: Annotated[Time, Field(description="When the status last changed.")]
    observed_generation: Annotated[
        int | None, Field(description="The metadata.generation that the condition was set for.", ge=0)
    ] = None


def find_condition(conditions: Iterable[Condition], type_: ConditionType) -> Condition | None:
    """Return the condition of that type, if it has been set."""
    return next((condition for condition in conditions if condition.type == type_), None)


def is_true(conditions: Iterable[Condition], type_: ConditionType) -> bool:
    """Tell whether the condition is set and holds."""
    condition = find_condition(conditions, type_)
    return condition is not None and condition.status is ConditionStatus.TRUE


def has_ended(conditions: Iterable[Condition]) -> bool:
    """Tell whether the job is complete or has failed: neither ever changes again."""
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
    """Return the conditions with one set; its transition time is kept unless its status changes.

    ``generation`` is the job's metadata.generation. The order is that of :class:`ConditionType`.
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
