"""Between the documents of a rendezvous host and the types that decisions use."""

import dataclasses

from torchrun_operator.core import membership, observed
from torchrun_rendezvous.protocol import EndRound, Overdue, Pace, Progress, RendezvousState, Target


def target_of(target: membership.Target) -> Target:
    """Return a target as the host reads it."""
    fields = {field.name: getattr(target, field.name) for field in dataclasses.fields(target)}
    return Target(**{**fields, "end_round": EndRound(*target.end_round) if target.end_round is not None else None})


def rendezvous_of(state: RendezvousState) -> observed.Rendezvous:
    """Return a state as decisions see it."""
    last = state.last_unrequested
    return observed.Rendezvous(
        instance=state.instance,
        round=state.round,
        complete=state.complete,
        closed=state.closed,
        finished=state.finished,
        members=tuple((member.address, member.rank) for member in state.members),
        waiting=state.waiting,
        silent=state.silent,
        missing=state.missing,
        leavers=state.target.leavers if state.target is not None else (),
        unrequested=state.rounds_ended.unrequested,
        last_unrequested_at=last.time if last is not None else None,
        last_unrequested_by=last.addresses if last is not None else (),
        completed_at=state.completed_at,
        progress=_progress(state.progress),
        pace=_pace(state.pace),
    )


def _progress(progress: Progress | None) -> observed.Progress | None:
    if progress is None:
        return None
    known = {field.name for field in dataclasses.fields(observed.Progress)}
    return observed.Progress(**{name: value for name, value in vars(progress).items() if name in known})


def _pace(pace: Pace) -> observed.Pace:
    return observed.Pace(pace.longest_pause_seconds, pace.longest_start_seconds, _overdue(pace.overdue))


def _overdue(overdue: Overdue | None) -> observed.Overdue | None:
    return observed.Overdue(**vars(overdue)) if overdue is not None else None
