"""The decision about the state in the store, without I/O.

A round, as torchrun's agents see it in the store and as this program drives it:

    open ──(wanted nodes joined)──> complete ──(every member has seen it)──> next round open, members keep running
     ^                                  │                                              │
     └──(every member left) <── kick: a node that does not exist waits, so agents restart and join again ──┘
"""

from __future__ import annotations

from dataclasses import replace

from torchrun_rendezvous.ending import await_end, close, conclude, observe, reopen, started, with_absent
from torchrun_rendezvous.eviction import SIGHT_SECONDS, evict
from torchrun_rendezvous.liveness import astray, listen, silent, vouch
from torchrun_rendezvous.memory import UNAWARE, Decision, Memory, Running, Senses
from torchrun_rendezvous.protocol import Target
from torchrun_rendezvous.view import KICK, Node, View, addresses

ASIDE_SECONDS = 3.0
"""How long a node that was set aside counts as waiting. It tries again every second."""
MISSING_SECONDS = 60.0
"""An agent gives its workers 30 s to stop and is back at once: after a minute it is missing."""
AWAY_LAST_CALL = 1.0
"""The last call without an operator, in seconds: it waits only for members that left a moment later than others."""


def decide(view: View, target: Target | None, now: float, memory: Memory, senses: Senses = UNAWARE) -> Decision:
    """Return the decision about the state. Pure, so it can be repeated if an agent wrote first.

    ``now`` is in seconds since the epoch and must never jump.
    """
    decision = _agreed(Decision(view, listen(view, now, memory, senses)), senses)
    # Once the workers of an agent have ended, a kick could only turn success into failure, so no round is kicked.
    if view.finished:
        decision = _finish(decision, target, now)
    else:
        if target is not None:
            decision = vouch(decision, now)
        decision = conclude(observe(decision, now), now)
        if target is not None:
            decision = _pursue(decision, target, now, senses)
    decision = _repair(decision)
    memory = decision.memory
    aside = {address: at for address, at in memory.aside.items() if now - at < ASIDE_SECONDS}
    awaited = _awaited(decision.view, target, now, memory)
    missing = tuple(sorted(address for address, at in awaited.items() if now - at > MISSING_SECONDS))
    completed = memory.completed_at
    fresh = completed is not None and 0 <= now - completed < 2 * SIGHT_SECONDS
    decision = decision.remember(aside=aside, awaited=awaited, missing=missing)
    return decision._replace(hurry=decision.view.complete and (fresh or bool(aside)))


def _agreed(decision: Decision, senses: Senses) -> Decision:
    """Remember the number of workers that the agents of the running round have agreed on."""
    running = decision.memory.running
    if running is None or senses.world is None:
        return decision
    return decision.remember(running=replace(running, world=senses.world))


def _pursue(decision: Decision, target: Target, now: float, senses: Senses) -> Decision:
    """Move the rendezvous towards the target."""
    if target.close != decision.view.closed:
        decision = close(decision) if target.close else reopen(decision)
    if decision.view.closed:
        return decision
    decision = conclude(evict(decision, target, now, senses), now)
    if decision.memory.running:
        return _tend(decision, decision.memory.running, target, now)
    return _form(decision, target, now, senses)


def _finish(decision: Decision, target: Target | None, now: float) -> Decision:
    """Let a round end of which some members have finished."""
    decision = await_end(decision, now)
    running = decision.memory.running
    if target is None or not target.close or running is None:
        return decision
    if not decision.view.closed:
        decision = close(decision)
    return decision._replace(release=running.round)


def _repair(decision: Decision) -> Decision:
    """Request an address for a rank 0 that is no longer in the round, once per round."""
    running = decision.memory.running
    if not running or running.repaired or any(running.members[node] == 0 for node in running.still):
        return decision
    return decision.remember(running=replace(running, repaired=True))._replace(repair=running.round)


def _awaited(view: View, target: Target | None, now: float, memory: Memory) -> dict[str, float]:
    """Return the wanted members of an ended round that are not back, and since when."""
    if view.closed or view.finished:
        return {}
    running = memory.running
    leaving = {node.address for node in running.members} if running and running.kicked else set()
    old = {node.address for node in running.still} if running and running.kicked else set()
    here = {node.address for node in view.joined()} - old
    if running and not running.kicked:
        here |= {node.address for node in running.still}
    unwanted = frozenset(target.leavers if target else ())
    return {address: memory.awaited.get(address, now) for address in ({*memory.awaited} | leaving) - here - unwanted}


def _tend(decision: Decision, running: Running, target: Target, now: float) -> Decision:
    """Drive a complete round: end it if it lost a member or can grow. Otherwise hide unwanted nodes from it."""
    view, memory = decision.view, decision.memory
    joiners = view.joined() - running.still
    more = joiners | astray(view, memory, silent(memory))
    lost = len(running.still) < len(running.members)
    hung = target.end_round is not None and target.end_round.round == running.round
    growing = bool(joiners if view.complete else more) and len(running.still) < target.size and not lost
    since = (memory.growth_since if memory.growth_since is not None else now) if growing else None
    decision = decision.remember(growth_since=since)
    if growing and not running.kicked and not view.complete:
        # Training continues while more of the wanted nodes are starting.
        all_here = len(running.still) + len(more) >= target.size
        growing = all_here or (since is not None and now - since >= target.last_call_seconds)
    if lost or growing or hung or running.kicked:
        if not running.kicked:
            reason = "a member is gone" if lost else "no progress" if hung else "more nodes joined"
            decision = decision.log("round-kicked", round=running.round, reason=reason)
            running = replace(running, kicked=True, requested=running.requested or growing or hung)
        return decision.show(with_absent(view, running).with_kick()).remember(running=running)
    if view.complete and joiners:
        return _set_aside(decision, running, joiners, now)
    seen = all(view.heartbeats.get(node, beat) != beat for node, beat in running.beats.items())
    if view.complete and seen and not view.waiting and not view.redundant:
        decision = decision.log("round-settled", round=running.round)
        view = replace(view, round=view.round + 1, complete=False, deadline=False, participants={})
    return decision.show(view)


def _set_aside(decision: Decision, running: Running, nodes: set[Node], now: float) -> Decision:
    """Hide nodes that are not wanted from the members: each one that sees them waiting restarts.

    They come back every second until the next round is open. There they wait as participants, which disturbs no member.
    """
    aside = {**decision.memory.aside, **{node.address: now for node in nodes}}
    decision = decision.remember(running=replace(running, disturbed_at=now), aside=aside)
    return decision.show(decision.view.without(nodes))


def _form(decision: Decision, target: Target, now: float, senses: Senses) -> Decision:
    """Complete the open round with exactly the wanted nodes or, after the last call, with the present ones."""
    view, memory = decision.view, decision.memory
    if view.complete:  # every member was evicted
        view = replace(view, complete=False, round=view.round + 1)
    nodes = view.joined()
    view = replace(
        view,
        deadline=False,  # agents past their own deadline would complete the round themselves
        participants={node: view.participants.get(node, 0) for node in nodes},
        waiting=frozenset({KICK} if astray(view, memory, silent(memory)) else ()),
        redundant=frozenset(),
    )
    enough = len(nodes) >= target.minimum
    since = (memory.enough_since if memory.enough_since is not None else now) if enough else None
    forming = now if nodes and memory.forming_since is None else memory.forming_since
    decision = decision.show(view).remember(forming_since=forming, enough_since=since)
    if since is None or target.size < target.minimum:
        return decision
    # Without an operator no lost node is replaced, and the remaining members join as soon as the round opens.
    last_call = target.last_call_seconds
    if senses.away and memory.rounds:
        last_call = min(last_call, AWAY_LAST_CALL)
    if len(nodes) < target.size and now - since < last_call:
        return decision
    return _complete(decision, nodes, target.size, now, alone=senses.away)


def _complete(decision: Decision, nodes: set[Node], size: int, now: float, *, alone: bool) -> Decision:
    """Complete the open round with that many of the nodes, former members first."""
    memory = decision.memory
    chosen = sorted(sorted(nodes, key=lambda node: (node.address not in memory.former, node))[:size])
    surplus = nodes - set(chosen)
    members = {node: rank for rank, node in enumerate(chosen)}
    view = decision.view.without(surplus)
    view = replace(view, complete=True, participants=members, waiting=frozenset())
    took = now - (memory.forming_since if memory.forming_since is not None else now)
    decision = decision.show(view).log(
        "round-completed",
        round=view.round,
        members=addresses(chosen),
        surplus=addresses(surplus),
        seconds=round(took, 3),
    )
    return decision.remember(
        running=started(view),
        rounds=memory.rounds + 1,
        rounds_alone=memory.rounds_alone + alone,
        completed_at=now,
        formation_seconds=took,
        enough_since=None,
        aside={**memory.aside, **{node.address: now for node in surplus}},
    )
