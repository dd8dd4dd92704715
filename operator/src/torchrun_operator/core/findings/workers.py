"""Failures of workers whose agents continue and restart them in place. The rendezvous host counts these rounds."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from torchrun_operator.api.conditions import Reason
from torchrun_operator.api.v1alpha1 import Failure, Membership, RendezvousStatus
from torchrun_operator.core.facts.logs import SETTLE
from torchrun_operator.core.facts.model import Cause
from torchrun_operator.core.findings.losses import SAME_CAUSE
from torchrun_rendezvous.protocol import RendezvousState


class FailureReason(StrEnum):
    """Reasons of failures of workers. Failures of containers have the reason that Kubernetes gives."""

    HUNG = Reason.PROGRESS_DEADLINE_EXCEEDED
    """The workers made no progress for too long."""
    WORKERS_FAILED = "WorkersFailed"
    """Workers failed, and their agents restart them in place."""


@dataclass(frozen=True)
class WorkerFailures:
    """Rounds that a member left because its workers failed, since the status was written."""

    count: int
    """Number of failures of the code."""
    handled: int
    """The value of the host's counter up to which failures are handled."""
    undecided_until: datetime | None = None
    by: tuple[str, ...] = ()
    """Addresses of the members that left first."""


NO_FAILURES = WorkerFailures(0, 0)


def new_worker_failures(
    recorded: RendezvousStatus,
    rendezvous: RendezvousState | None,
    now: datetime,
    *,
    lost_now: bool,
    last_loss: datetime | None,
) -> WorkerFailures:
    """Return the failures of workers that no lost node explains.

    When a node is lost, the collectives of the others fail and their agents leave the round within a second, often
    before Kubernetes reports the failed pod. So a failure waits SETTLE for a report of a loss. A loss in this pass may
    have happened at any time since the last pass, which may be long ago if the operator was down.
    """
    if rendezvous is None:
        return WorkerFailures(0, recorded.unrequested)
    before = recorded.unrequested if rendezvous.instance == recorded.instance else 0
    counter, last = rendezvous.rounds_ended.unrequested, rendezvous.last_unrequested
    if counter <= before or last is None:
        return WorkerFailures(0, counter)
    if lost_now or (last_loss is not None and abs(last_loss - last.time) <= SAME_CAUSE):
        return WorkerFailures(0, counter)
    if now < last.time + SETTLE:
        return WorkerFailures(0, before, undecided_until=last.time + SETTLE)
    return WorkerFailures(counter - before, counter, by=last.addresses)


def last_loss(membership: Membership, failure: Failure | None) -> datetime | None:
    """Return when a node was last lost, which explains failures of the other workers.

    A failure in place does not explain a further failure.
    """
    change = membership.last_change
    if change is None:
        return None
    in_place = failure is not None and failure.reason in (FailureReason.WORKERS_FAILED, FailureReason.HUNG)
    return None if change.cause == Cause.CODE and in_place else change.time
