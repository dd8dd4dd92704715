"""The counts of one pass: new losses, failures of workers, hangs and resizes, and the sum of restarts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torchrun_operator.api.v1alpha1 import Failure, RendezvousStatus, Restarts
from torchrun_operator.core.facts.model import Cause, Facts, NodePod
from torchrun_operator.core.findings.causes import failed_by_code
from torchrun_operator.core.findings.completion import Completion
from torchrun_operator.core.findings.failures import newest
from torchrun_operator.core.findings.hangs import Deadlines, Hang, new_hang, recorded_hang
from torchrun_operator.core.findings.losses import Loss, code_failures, new_losses
from torchrun_operator.core.findings.membership import Members
from torchrun_operator.core.findings.stuck import Stuck, stuck_losses
from torchrun_operator.core.findings.wanted import Wanted
from torchrun_operator.core.findings.workers import NO_FAILURES, WorkerFailures, last_loss, new_worker_failures


@dataclass(frozen=True)
class Counts:
    """The restarts including this pass, and the new ones."""

    restarts: Restarts
    bookkeeping: RendezvousStatus
    """The restarts that the status records."""
    losses: tuple[Loss, ...] = ()
    spares: tuple[Loss, ...] = ()
    """Lost spares, which do not count."""
    workers: WorkerFailures = NO_FAILURES
    hang: Hang | None = None
    fresh: Mapping[str, int] = field(default_factory=dict)
    """New restarts, by cause."""
    failure: Failure | None = None
    """The newest failure, if this pass counts it."""
    hung_round: int | None = None
    """The last round that was found to hang in the present host process."""
    exhausted: bool = False
    """The code failed more often than spec.maxRestarts allows."""
    going_on: bool = False
    """The job is active and has not failed."""

    def by_code(self, node: NodePod, facts: Facts) -> bool:
        """Whether the code made this pod fail. This pass or an earlier one counts it."""
        return failed_by_code(node, facts.job.status.nodes, facts.rendezvous, self.bookkeeping)


def count(
    facts: Facts, wanted: Wanted, round_: Members, limits: Deadlines, stuck: Stuck, end: Completion, *, active: bool
) -> Counts:
    """Count what is new in an active job. The counts of a job that has ended or is suspended stay as they are."""
    if not active:
        return Counts(restarts=facts.job.status.restarts, bookkeeping=facts.job.status.rendezvous)
    status, rendezvous = facts.job.status, facts.rendezvous
    recorded = status.rendezvous
    found = new_losses(status.nodes, facts, wanted.pods, recorded, full=round_.full)
    found += stuck_losses(facts, stuck.why, found, wanted.pods)
    losses = tuple(loss for loss in found if not loss.spare)
    hung = recorded_hang(rendezvous, recorded)
    hang = new_hang(rendezvous, hung, round_.leavers, limits) if not losses else None
    workers = new_worker_failures(
        recorded,
        rendezvous,
        facts.now,
        lost_now=bool(losses),
        last_loss=last_loss(status.membership, status.last_failure),
    )
    code = code_failures(losses, status.last_failure) + workers.count + (hang is not None)
    fresh = _fresh(losses, code, round_.resized)
    before = status.restarts
    restarts = Restarts(**{cause: getattr(before, cause) + fresh.get(cause, 0) for cause in Cause})
    exhausted = restarts.code > facts.job.spec.max_restarts and not end.complete
    hung = hang.round if hang is not None else hung
    return Counts(
        restarts=restarts,
        bookkeeping=_bookkeeping(facts, workers, hung),
        losses=losses,
        spares=tuple(loss for loss in found if loss.spare),
        workers=workers,
        hang=hang,
        fresh=fresh,
        failure=newest(facts, losses, workers, hang) if fresh else None,
        hung_round=hung,
        exhausted=exhausted,
        going_on=not exhausted,
    )


def _fresh(losses: tuple[Loss, ...], code: int, resize: bool) -> dict[str, int]:
    fresh: dict[str, int] = {}
    for loss in losses:
        if loss.cause is not Cause.CODE:
            fresh[loss.cause] = fresh.get(loss.cause, 0) + 1
    if code:
        fresh[Cause.CODE] = code
    if resize:
        fresh[Cause.RESIZE] = 1
    return fresh


def _bookkeeping(facts: Facts, workers: WorkerFailures, hung: int | None) -> RendezvousStatus:
    """Return the counts of the current host process. If the host does not answer, nothing changes."""
    rendezvous, recorded = facts.rendezvous, facts.job.status.rendezvous
    if rendezvous is None:
        return recorded
    known = recorded.instance == rendezvous.instance and recorded.since is not None
    return RendezvousStatus(
        instance=rendezvous.instance,
        unrequested=workers.handled,
        since=recorded.since if known else facts.now,
        hung_round=hung,
    )
