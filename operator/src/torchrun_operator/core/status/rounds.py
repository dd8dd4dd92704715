"""status.rounds: the last rounds, for the picture of the life of a job."""

from torchrun_operator.api import v1alpha1 as api
from torchrun_operator.api.names import MAX_ROUNDS
from torchrun_operator.core.facts.model import Facts, Stage
from torchrun_operator.core.findings.find import Findings


def rounds(facts: Facts, findings: Findings, trains: api.Membership) -> tuple[api.RoundStatus, ...] | None:
    """Return the last rounds; the new one if the present round is complete and not among them yet."""
    old, rendezvous, status = facts.job.status.rounds, facts.rendezvous, facts.job.status
    if rendezvous is None or not rendezvous.complete or rendezvous.completed_at is None or not trains.nodes:
        return old
    last = old[-1] if old else None
    if findings.stage is not Stage.ACTIVE or (last is not None and last.round == trains.round):
        return old
    change, known = trains.last_change, status.progress
    began = rendezvous.completed_at
    recent = change is not None and change.time <= began and (last is None or change.time >= last.began)
    new = api.RoundStatus(
        round=trains.round,
        nodes=len(rendezvous.members),
        began=began,
        step=known.step if known is not None else None,
        cause=change.cause if change is not None and recent else None,
    )
    return (*(old or ()), new)[-MAX_ROUNDS:]
