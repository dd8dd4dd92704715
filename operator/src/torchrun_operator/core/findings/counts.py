"""What one pass counts: restarts by cause, and whether they are more than the job allows."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torchrun_operator.api.v1alpha1 import FailureAction, RendezvousStatus, Restarts
from torchrun_operator.core.facts.model import Cause, Facts
from torchrun_operator.core.findings.completion import Completion
from torchrun_operator.core.findings.hangs import Hang, Hangs
from torchrun_operator.core.findings.losses import Losses
from torchrun_operator.core.findings.membership import Members
from torchrun_operator.core.findings.verdict import Verdict
from torchrun_operator.core.findings.workers import FailureReason, WorkerFailures


@dataclass(frozen=True)
class Counts:
    """The restarts after this pass, and what is new in them."""

    restarts: Restarts
    bookkeeping: RendezvousStatus
    """What the status records as counted."""
    hang: Hang | None = None
    """The hang that is counted now."""
    fresh: Mapping[str, int] = field(default_factory=dict)
    """New restarts, by cause."""
    hung_round: int | None = None
    """The last round that was found to hang in the present host process."""
    failed: bool = False
    """The code has failed, whether that counts as code or not."""
    exhausted: bool = False
    """The code failed more often than spec.maxRestarts allows, or in a way that fails the job."""

    def shown_round(self, number: int) -> int:
        """Return the number that people see of a round of the present host process."""
        return (self.bookkeeping.first_round or 0) + number


def count(
    facts: Facts,
    round_: Members,
    lost: Losses,
    hangs: Hangs,
    workers: WorkerFailures,
    end: Completion,
    verdict: Verdict,
    *,
    active: bool,
) -> Counts:
    """Count what is new in an active job. The counts of a job that has ended or is suspended stay as they are.

    ``verdict`` is about the newest failure.
    """
    before = facts.job.status.restarts
    if not active:
        return Counts(restarts=before, bookkeeping=facts.job.status.rendezvous)
    hang = verdict.hang
    hung = hang.round if hang is not None else hangs.recorded
    code = lost.by_code + workers.count + (hang is not None)
    fresh = _fresh(lost, code, round_.resized, _ignored(verdict, workers))
    restarts = Restarts(**{cause: getattr(before, cause) + fresh.get(cause, 0) for cause in Cause})
    bookkeeping = _bookkeeping(facts, workers, hung, end)
    return Counts(
        restarts=restarts,
        bookkeeping=bookkeeping,
        hang=hang,
        fresh=fresh,
        hung_round=hung,
        failed=bool(code),
        exhausted=not end.complete
        and (restarts.code > facts.job.spec.max_restarts or (bool(code) and verdict.action is FailureAction.FAIL_JOB)),
    )


def _ignored(verdict: Verdict, workers: WorkerFailures) -> int:
    """Return how many failures a rule ignores: the newest one.

    If workers failed several times in the seconds of one pass, the log shows the last time only. They fail in place
    again for the same reason.
    """
    if verdict.action is not FailureAction.IGNORE or verdict.failure is None:
        return 0
    in_place = verdict.failure.reason in (FailureReason.WORKERS_FAILED, FailureReason.OTHERS_FINISHED)
    return max(1, workers.count) if in_place else 1


def _fresh(lost: Losses, code: int, resize: bool, ignored: int) -> dict[str, int]:
    fresh: dict[str, int] = {}
    for loss in lost.nodes:
        if loss.cause is not Cause.CODE:
            fresh[loss.cause] = fresh.get(loss.cause, 0) + 1
    ignored = min(ignored, code)
    if ignored:
        fresh[Cause.INFRASTRUCTURE] = fresh.get(Cause.INFRASTRUCTURE, 0) + ignored
    code -= ignored
    if code:
        fresh[Cause.CODE] = code
    if resize:
        fresh[Cause.RESIZE] = 1
    return fresh


def _bookkeeping(facts: Facts, workers: WorkerFailures, hung: int | None, end: Completion) -> RendezvousStatus:
    """Return the counts of the current host process. If the host does not answer, no count changes."""
    rendezvous, recorded = facts.rendezvous, facts.job.status.rendezvous
    if rendezvous is None:
        return recorded.model_copy(update={"lost_round": workers.lost_round, "no_round_since": end.no_round_since})
    known = recorded.instance == rendezvous.instance and recorded.since is not None
    return RendezvousStatus(
        instance=rendezvous.instance,
        unrequested=workers.handled,
        since=recorded.since if known else facts.now,
        hung_round=hung,
        lost_round=workers.lost_round,
        failing_since=workers.since,
        first_round=_first_round(facts, rendezvous.instance),
        no_round_since=end.no_round_since,
    )


def _first_round(facts: Facts, instance: str) -> int | None:
    """Return the number of round 0 of this host process. The next process continues the numbers of the last one."""
    status = facts.job.status
    if status.rendezvous.instance in (None, instance):
        return status.rendezvous.first_round
    return status.membership.round + 1
