"""Which nodes are evicted from the rendezvous, and when."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from torchrun_rendezvous.ending import left
from torchrun_rendezvous.liveness import disconnected, silent
from torchrun_rendezvous.memory import Decision, Memory, Senses
from torchrun_rendezvous.protocol import Target
from torchrun_rendezvous.view import Node, View, addresses, exists

REASONS = ("not wanted", "replaced", "disconnected", "silent")
SIGHT_SECONDS = 1.5
"""Agents look for a round every second, so by then each member has seen a complete one."""
FORGET_SECONDS = 120.0
"""A silent agent that could not reach the store for this long has ended."""


class _Unwanted(NamedTuple):
    """The nodes to evict, by reason, each in one set only."""

    leavers: set[Node]
    replaced: set[Node]
    disconnected: set[Node]
    silent: set[Node]
    newest: dict[str, Node]
    """The process that stays at an address."""

    def all(self) -> set[Node]:
        return self.leavers | self.replaced | self.disconnected | self.silent

    def by_reason(self) -> dict[str, set[Node]]:
        return dict(zip(REASONS, (self.leavers, self.replaced, self.disconnected, self.silent), strict=True))


def evict(decision: Decision, target: Target, now: float, senses: Senses) -> Decision:
    """Evict leavers, lost nodes, and the older of two processes at one address: its agent has restarted."""
    view, memory = decision.view, decision.memory
    unwanted = _unwanted(view, target, now, memory)
    held = _held(view, unwanted.all(), now, memory)
    gone = unwanted.all() - held
    decision, early = _leave_running(decision, unwanted, held, now)
    evictions = dict(memory.evictions)
    fresh = gone - memory.evicted
    for reason, nodes in unwanted.by_reason().items():
        if new := nodes & fresh:
            decision = decision.log(
                "evicted", addresses=addresses(new), reason=reason, round=view.round, operatorAway=senses.away
            )
            evictions[reason] = evictions.get(reason, 0) + len(new)
    leavers = frozenset(target.leavers)
    evicted = frozenset(node for node in memory.evicted if node.address in leavers) | gone
    forgotten = {node for node in unwanted.silent if memory.clock - memory.signs[node].heard >= FORGET_SECONDS}
    view = view.without((gone - unwanted.silent) | forgotten | early).unlisted(gone)
    return decision.show(view).remember(evicted=evicted, evictions=evictions)


def _unwanted(view: View, target: Target, now: float, memory: Memory) -> _Unwanted:
    named = frozenset(target.leavers)
    known = {*filter(exists, (*view.heartbeats, *view.listed()))}
    leavers = {node for node in known if node.address in named}
    newest: dict[str, Node] = {}
    for node in sorted(known - leavers, key=lambda node: (view.heartbeats.get(node, -math.inf), node)):
        newest[node.address] = node
    replaced = known - leavers - set(newest.values())
    dead = (disconnected(now, memory) & known) - leavers - replaced
    return _Unwanted(leavers, replaced, dead, (silent(memory) & known) - leavers - replaced - dead, newest)


def _leave_running(
    decision: Decision, unwanted: _Unwanted, held: frozenset[Node], now: float
) -> tuple[Decision, frozenset[Node]]:
    """Remove the evicted nodes from the current round. Also return nodes that joined before all members saw it."""
    view, memory = decision.view, decision.memory
    running, aside = memory.running, memory.aside
    if running is None:
        return decision, frozenset()
    gone = unwanted.all() - held
    asked = unwanted.leavers | unwanted.disconnected | unwanted.silent
    requested = running.requested or not asked.isdisjoint(running.still)
    running = left(replace(running, requested=requested), unwanted.replaced & running.still, now)
    running = replace(running, still=running.still - gone)
    early: frozenset[Node] = frozenset()
    if not running.kicked:  # the successor of a held member would make the others leave before all are in
        early = view.waiting & {unwanted.newest[node.address] for node in held & unwanted.replaced}
    hidden = view.waiting & (gone | early)
    if view.complete and hidden:  # members may have seen them waiting
        running = replace(running, disturbed_at=now)
        aside = {**aside, **{node.address: now for node in hidden}}
    return decision.remember(running=running, aside=aside), early


def _held(view: View, gone: set[Node], now: float, memory: Memory) -> frozenset[Node]:
    """Return which of the gone stay for now: a member yet to see the round would take it for a smaller one than others.

    Members see it within a second. A limit prevents that a member that never looks blocks the round.
    """
    running, completed = memory.running, memory.completed_at
    if running is None or completed is None or not view.complete or not 0 <= now - completed < SIGHT_SECONDS:
        return frozenset()
    waited_for = any(view.heartbeats.get(node) == running.beats[node] for node in running.still - gone)
    return frozenset(node for node in gone if node in view.participants) if waited_for else frozenset()
