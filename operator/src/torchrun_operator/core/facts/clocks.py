"""Times of other clocks in the operator's time. Pure.

The clocks of rendezvous hosts, API servers and kubelets differ from the operator's, by hours if a computer was
suspended or its time was never set. So no time of another clock is compared with the operator's. A rendezvous host
names its present time in each answer, which gives the difference. Of a pod, it counts when the operator first saw it in
that state.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from torchrun_operator.core.facts.model import Exit, Facts, NodePod, RendezvousPod, Wait
from torchrun_rendezvous.protocol import RendezvousState

_TOLERANCE = timedelta(seconds=2)
"""An answer may take this long. A smaller difference is none, so that times do not vary."""
_NO_CLOCK = timedelta(days=3650)
"""A rendezvous host that is off by more tells no time."""

Sightings = Mapping[tuple[str, str], tuple[datetime, datetime]]
"""When the operator first saw a time of a pod, by uid and field: the time as reported, and the operator's own."""


def difference(known: timedelta, reported: datetime | None, now: datetime) -> timedelta:
    """Return what to add to times of a rendezvous host that reports its present time. ``known`` was right before."""
    if reported is None:
        return known
    measured = now - reported
    if abs(measured) > _NO_CLOCK or abs(measured - known) <= _TOLERANCE:
        return known
    return measured if abs(measured) > _TOLERANCE else timedelta(0)


def in_our_time(state: RendezvousState, added: timedelta) -> RendezvousState:
    """Return a state document with the operator's times, and without the time of the answer."""
    state = replace(state, time=None)
    if not added:
        return state
    last, progress, overdue = state.last_unrequested, state.progress, state.pace.overdue
    return replace(
        state,
        last_unrequested=last and replace(last, time=_moved(last.time, added)),
        completed_at=state.completed_at and _moved(state.completed_at, added),
        progress=progress and replace(progress, time=_moved(progress.time, added)),
        pace=replace(state.pace, overdue=overdue and replace(overdue, since=_moved(overdue.since, added))),
    )


def _moved(time: datetime, added: timedelta) -> datetime:
    try:
        return time + added
    except OverflowError:
        return time


def sighted(facts: Facts, known: Sightings | None) -> tuple[Facts, Sightings]:
    """Return the facts with the times of pods as the operator has seen them, and what to remember of them.

    ``known`` None: this is the first look of a new process. What it finds was there before, for an unknown time: the
    reported times are the best guess, but nothing can be in the future.
    """
    eyes = _Eyes(facts.now, known)
    host = facts.rendezvous_pod
    if host is not None:
        host = replace(host, started_at=eyes.see(host.uid, "start", host.started_at), wait=eyes.wait(host))
    new = replace(
        facts,
        nodes=tuple(eyes.node(node) for node in facts.nodes),
        former=tuple(eyes.node(node) for node in facts.former),
        rendezvous_pod=host,
    )
    return new, eyes.seen


class _Eyes:
    def __init__(self, now: datetime, known: Sightings | None) -> None:
        self._now = now
        self._known = known
        self.seen: dict[tuple[str, str], tuple[datetime, datetime]] = {}

    def node(self, node: NodePod) -> NodePod:
        return replace(
            node,
            created_at=self.see(node.uid, "creation", node.created_at),
            started_at=self.see(node.uid, "start", node.started_at),
            stop_requested_at=self.see(node.uid, "stop", node.stop_requested_at),
            runs_since=self.see(node.uid, "run", node.runs_since),
            exit=self._exit(node.uid, "exit", node.exit),
            wait=self.wait(node),
        )

    def wait(self, pod: NodePod | RendezvousPod) -> Wait:
        wait = pod.wait
        since, ended = self.see(pod.uid, "wait", wait.since), self._exit(pod.uid, "last exit", wait.ended)
        return replace(wait, since=since, ended=ended)

    def _exit(self, uid: str, field: str, ended: Exit | None) -> Exit | None:
        return ended and replace(ended, finished_at=self.see(uid, field, ended.finished_at))

    def see(self, uid: str, field: str, reported: datetime | None) -> datetime | None:
        if reported is None:
            return None
        before = self._known.get((uid, field)) if self._known is not None else None
        if before is not None and before[0] == reported:
            found = before[1]
        else:
            found = self._now if self._known is not None else min(reported, self._now)
        self.seen[uid, field] = reported, found
        return found
