"""How a complete round ends: who left it, whether that was requested, and how a rendezvous closes and reopens."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from torchrun_rendezvous.memory import Decision, Running
from torchrun_rendezvous.view import KICK, Node, View, absent, addresses, exists

DISTURBED_SECONDS = 5.0
"""A member that leaves this soon after an unwanted node waited has seen that node."""


def started(view: View) -> Running:
    """Return the round that begins with a complete state. A node in the place of a member that left is not in it."""
    members = dict(view.participants)
    beats = {node: view.heartbeats.get(node, -math.inf) for node in members}
    still = frozenset(filter(exists, members))
    return Running(round=view.round, members=members, still=still, beats=beats)


def observe(decision: Decision, now: float) -> Decision:
    """Detect members that left by themselves, and a round that the agents completed by themselves."""
    view, memory = decision.view, decision.memory
    running = memory.running
    if running is None:
        if not view.complete or not view.participants:
            return decision
        running = started(view)
        decision = decision.log("round-found", round=view.round, members=addresses(running.members))
        return decision.remember(running=running, rounds=memory.rounds + 1, completed_at=now)
    still = _still(view, running)
    gone = running.still - still
    if not gone:
        return decision
    decision = decision.log("left", round=running.round, addresses=addresses(gone))
    return decision.remember(running=left(replace(running, still=still), gone, now))


def _still(view: View, running: Running) -> frozenset[Node]:
    """Return the members that have not left. While the next round is open, they are in no list."""
    if view.complete and view.round == running.round:
        return frozenset(node for node in running.still if node in view.participants)
    if not view.complete and view.round == running.round + 1:
        return running.still - view.listed()
    return frozenset()


def with_absent(view: View, running: Running) -> View:
    """Keep the size of a complete round that a member has left before all others have seen it.

    torch removes a member that leaves. An agent that reads the round after that would take it for a smaller one than
    the others, and tell its workers so. A node that does not exist takes the rank of such a member. It has no
    heartbeat, so the next round drops it.
    """
    unseen = any(view.heartbeats.get(node) == running.beats[node] for node in running.still)
    if not view.complete or view.round != running.round or not unseen:
        return view
    gone = {*running.members.values()} - {*view.participants.values()}
    return replace(view, participants={**view.participants, **{absent(rank): rank for rank in gone}})


def left(running: Running, nodes: Iterable[Node], now: float) -> Running:
    """Remember which members left first, unless the end of the round was requested before."""
    names = addresses(nodes)
    if not names or running.requested or running.first_left:
        return running
    if now - running.disturbed_at < DISTURBED_SECONDS:
        return replace(running, requested=True)
    return replace(running, first_left=names, first_left_at=now)


def conclude(decision: Decision, now: float) -> Decision:
    """Count the end of a round once no member is left in it: only then is it known whether a member was lost."""
    memory = decision.memory
    running = memory.running
    if running is None or running.still:
        return decision
    requested = running.requested or not running.first_left
    decision = decision.log("round-ended", round=running.round, requested=requested).remember(
        running=None,
        returning=frozenset(),
        former=frozenset(addresses(running.members)),
        forming_since=now,
        enough_since=None,
        growth_since=None,
    )
    return _counted(decision, running)


def _counted(decision: Decision, running: Running) -> Decision:
    """Count the end of a round."""
    memory = decision.memory
    if running.requested or not running.first_left:
        return decision.remember(requested=memory.requested + 1)
    last = (running.round, running.first_left, running.first_left_at)
    return decision.remember(unrequested=memory.unrequested + 1, last_unrequested=last)


def await_end(decision: Decision, now: float) -> Decision:
    """Let the members of a round end of which some have finished, and detect the others that join again.

    Their workers have failed, and they wait in vain: a member that has finished never joins another round. The round
    has ended with that, though the members that have finished stay in it.
    """
    view, running = decision.view, decision.memory.running
    if running is None:
        return decision
    inside = view.complete and view.round == running.round
    back = ({*view.waiting, *view.redundant} if inside else view.listed()) & set(running.members)
    view = replace(view, waiting=view.waiting - {KICK})
    if inside:  # a member that sees another node waiting would restart instead of ending
        view = view.without(view.waiting - back)
    decision, names = decision.show(view), addresses(back)
    if not back or running.unfinished == names:
        return decision
    first = not running.unfinished
    running = replace(left(running, back, now), still=running.still - back, unfinished=names)
    decision = decision.log("unfinished", round=running.round, addresses=names).remember(running=running)
    return _counted(decision, running) if first else decision


def close(decision: Decision) -> Decision:
    """Close the rendezvous, and make the members look for the next round, so that they see it."""
    view, running = decision.view, decision.memory.running
    decision = decision.log("closing", round=view.round).show(replace(view, closed=True))
    if running is None or view.finished:
        return decision
    running = replace(running, kicked=True, requested=not running.first_left)
    return decision.show(decision.view.with_kick()).remember(running=running)


def reopen(decision: Decision) -> Decision:
    """Undo the close of an agent that failed or got SIGTERM: torch before 2.8 then closes the rendezvous for all."""
    view = decision.view
    decision = decision.log("reopened", round=view.round).show(replace(view, closed=False))
    return decision.remember(reopened=decision.memory.reopened + 1)
