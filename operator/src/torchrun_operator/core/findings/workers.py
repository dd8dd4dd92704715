"""Failures of workers whose agents continue and restart them in place. The rendezvous host counts these rounds."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from torchrun_operator.api.conditions import Reason
from torchrun_operator.core.facts.logs import SETTLE, failing_since, settled
from torchrun_operator.core.facts.model import Facts
from torchrun_operator.core.findings.losses import Losses
from torchrun_operator.core.findings.membership import Members


class FailureReason(StrEnum):
    """Reasons of failures of workers. Failures of containers have the reason that Kubernetes gives."""

    HUNG = Reason.PROGRESS_DEADLINE_EXCEEDED
    """The workers made no progress for too long."""
    WORKERS_FAILED = "WorkersFailed"
    """Workers failed, and their agents restart them in place."""
    OTHERS_FINISHED = "OthersFinished"
    """Workers failed after those of another node had ended with exit code 0."""


@dataclass(frozen=True)
class WorkerFailures:
    """Rounds that a member left because its workers failed, since the status was written."""

    count: int
    """Number of failures of the code."""
    handled: int
    """The value of the host's counter up to which failures are handled."""
    since: datetime | None = None
    """When the operator first saw the failures that are not handled yet."""
    by: tuple[str, ...] = ()
    """Addresses of the members that left first."""
    lost_round: int | None = None
    """The last round that a member was lost from or had to leave: its workers fail because of that."""

    @property
    def undecided_until(self) -> datetime | None:
        """When the failures that are not handled yet will be counted."""
        return self.since + SETTLE if self.since is not None else None


NO_FAILURES = WorkerFailures(0, 0)


def worker_failures(facts: Facts, lost: Losses, members: Members) -> WorkerFailures:
    """Return the failures of workers that no status has counted yet and that no lost node explains.

    When a node is lost, the collectives of the others fail and their agents leave the round within a second, often
    before Kubernetes reports the failed pod. So failures wait for the report of a loss, SETTLE from the first of them:
    workers that fail again and again do not put this off. All times are the operator's, and the host names the rounds:
    the clock of the host may be wrong.
    """
    if facts.job.spec.static:
        return WorkerFailures(0, 0, lost.undecided_since)
    recorded, rendezvous = facts.job.status.rendezvous, facts.rendezvous
    lost_round = _lost_round(facts, lost, members)
    if rendezvous is None:
        return WorkerFailures(0, recorded.unrequested, recorded.failing_since, lost_round=lost_round)
    before = recorded.unrequested if rendezvous.instance == recorded.instance else 0
    counter, last = rendezvous.rounds_ended.unrequested, rendezvous.last_unrequested
    if counter <= before or last is None or _explained(facts, lost) or last.round == lost_round:
        return WorkerFailures(0, counter, lost_round=lost_round)
    if not settled(facts):
        return WorkerFailures(0, before, failing_since(facts) or facts.now, lost_round=lost_round)
    return WorkerFailures(counter - before, counter, by=last.addresses, lost_round=lost_round)


def _explained(facts: Facts, lost: Losses) -> bool:
    """Whether this pass sees the loss of a member. That may have happened long ago, if the operator was down."""
    known = any(node.rank is not None for node in facts.job.status.nodes)
    return any(loss.rank is not None or not known for loss in lost.nodes)


def _lost_round(facts: Facts, lost: Losses, members: Members) -> int | None:
    """Return the last round of the present host process that a member was lost from or had to leave."""
    status, rendezvous = facts.job.status, facts.rendezvous
    if rendezvous is not None and any(member.address in members.leavers for member in rendezvous.members):
        return rendezvous.round
    instance = rendezvous.instance if rendezvous is not None else status.rendezvous.instance
    trained = status.membership if status.membership.instance == instance and status.membership.nodes else None
    if trained is not None and any(loss.rank is not None for loss in lost.nodes):
        return trained.round
    return status.rendezvous.lost_round if status.rendezvous.instance == instance else None
