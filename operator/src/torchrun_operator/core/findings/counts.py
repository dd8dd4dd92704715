"""What one pass counts: new losses, failures of workers, hangs and resizes, and the restarts they add up to."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torchrun_operator.api.v1alpha1 import Failure, RendezvousStatus, Restarts
from torchrun_operator.core.facts.model import Cause, Facts
from torchrun_operator.core.findings.failures import newest
from torchrun_operator.core.findings.hangs import Deadlines, Hang, new_hang, recorded_hang
from torchrun_operator.core.findings.losses import Loss, code_failures, new_losses
from torchrun_operator.core.findings.membership import resized
from torchrun_operator.core.findings.size import Wanted
from torchrun_operator.core.findings.stuck import stuck_losses
from torchrun_operator.core.findings.workers import NO_FAILURES, WorkerFailures, last_loss, new_worker_failures


@dataclass(frozen=True)
class Counts:
    """The restarts after this pass, and what is new in them."""

    restarts: Restarts
    bookkeeping: RendezvousStatus
    """What the status records as counted."""
    losses: tuple[Loss, ...] = ()
    spares: tuple[Loss, ...] = ()
    """Spares that were lost, which count nothing."""
    workers: WorkerFailures = NO_FAILURES
    hang: Hang | None = None
    resized: bool = False
    fresh: Mapping[str, int] = field(default_factory=dict)
    """New restarts, by cause."""
    failure: Failure | None = None
    """The newest failure, if it is counted here."""


def nothing_new(facts: Facts) -> Counts:
    """Return the counts of a job that has ended or is suspended: they stay as the status records them."""
    return Counts(restarts=facts.job.status.restarts, bookkeeping=facts.job.status.rendezvous)


def count(
    facts: Facts,
    wanted: Wanted,
    leavers: tuple[str, ...],
    limits: Deadlines,
    stuck: Mapping[str, str],
    *,
    full: bool,
) -> Counts:
    """Count what is new. ``stuck`` are the nodes that cannot come to the next round, by uid, and why."""
    status, rendezvous = facts.job.status, facts.rendezvous
    recorded = status.rendezvous
    found = new_losses(status.nodes, facts, wanted.pods, recorded, full=full)
    found += stuck_losses(facts, stuck, found, wanted.pods)
    losses = tuple(loss for loss in found if not loss.spare)
    hung = recorded_hang(rendezvous, recorded)
    hang = new_hang(rendezvous, hung, leavers, limits) if not losses else None
    workers = new_worker_failures(
        recorded,
        rendezvous,
        facts.now,
        lost_now=bool(losses),
        last_loss=last_loss(status.membership, status.last_failure),
    )
    resize = resized(facts.job, wanted.nodes)
    code = code_failures(losses, status.last_failure) + workers.count + (hang is not None)
    fresh = _fresh(losses, code, resize)
    before = status.restarts
    return Counts(
        restarts=Restarts(**{cause: getattr(before, cause) + fresh.get(cause, 0) for cause in Cause}),
        bookkeeping=_bookkeeping(facts, workers, hang.round if hang is not None else hung),
        losses=losses,
        spares=tuple(loss for loss in found if loss.spare),
        workers=workers,
        hang=hang,
        resized=resize,
        fresh=fresh,
        failure=newest(facts, losses, workers, hang) if fresh else None,
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
    """Return what is counted of the present host process; a host that does not answer changes nothing."""
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
