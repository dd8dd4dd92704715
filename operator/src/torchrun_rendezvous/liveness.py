"""Which nodes are alive, judged by connections to the store, acknowledgements of their kernels, and heartbeats.

Only the host judges: the settings of agents prevent that they drop a node.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone

from torchrun_rendezvous.memory import Decision, LifeSigns, Memory, Running, Senses
from torchrun_rendezvous.view import Node, View, plain_address

GONE_SECONDS = 1.0
"""Agents never reconnect. The kernel's list may miss a connection, but not for this long."""
SILENT_BEATS = 4
"""A node is silent after this many intervals without a heartbeat. The first one comes after up to two."""
VOUCH_BEATS = 2.2
"""After this many intervals the host prevents that agents drop the node. Old torch drops it after three."""
QUIET_BEATS = 2.5
"""If no node was heard for this many intervals, the silence of a node has no meaning."""
UNREACHABLE_SECONDS = 4.0
"""A Kubernetes node that acknowledges nothing for this long is cut off or gone."""
ANSWER_SECONDS = 1.5
"""An older list is ignored: idle connections are probed every second."""
SILENT_MANY_SECONDS = 30.0
"""How long to wait if more than half of the nodes are silent: more likely, the host receives nothing.

As long for the address of a rank 0 that is heard: more likely, its computer is overloaded.
"""
RETURN_SECONDS = 8.0
"""How much longer a member of a round that this host has taken over may be silent at first.

It tries now and then to reach the new host. An attempt that comes to nothing takes up to 6 s.
"""
STALL_SECONDS = 0.5
"""A longer time between two ticks is a stall of the host, not of the nodes."""
MASTER_SECONDS = 10.0
"""How long rank 0 may send nothing before it publishes its address. The others wait for it in silence."""


def listen(view: View, now: float, memory: Memory, senses: Senses) -> Memory:
    """Record which nodes sent heartbeats and which are connected."""
    running, heard_at = memory.running, memory.heard_at
    passed = min(max(0.0, now - memory.looked_at), STALL_SECONDS)
    quiet = now - heard_at >= QUIET_BEATS * senses.interval
    clock = memory.clock + (0.0 if quiet else passed)
    signs = {node: known for node, known in memory.signs.items() if running and node in running.still}
    heard: set[Node] = set()
    for node, beat in view.heartbeats.items():
        known = memory.signs.get(node, LifeSigns(math.nan, clock))
        if known.beat != beat:
            returns = node not in signs and node in memory.returning
            until = clock + (RETURN_SECONDS if returns else 0.0)
            known, heard_at = known._replace(beat=beat, heard=until, beat_at=now), now
            heard.add(node)
        signs[node] = known
    if quiet and heard_at == now:  # the first one that is heard again: the time of the others starts again
        signs = {node: _heard_again(known, clock) for node, known in signs.items()}
    if senses.peers is not None:
        signs = {node: _connected(node, known, senses.peers, now) for node, known in signs.items()}
    if senses.unanswered is not None:
        signs = {node: _reached(node, known, senses.unanswered, clock) for node, known in signs.items()}
    if running and view.complete:
        running = _awaited(running, passed, heard, published=senses.published)
    return replace(
        memory,
        running=running,
        signs=signs,
        clock=clock,
        interval=senses.interval,
        looked_at=now,
        heard_at=heard_at,
    )


def _awaited(running: Running, passed: float, heard: set[Node], *, published: bool) -> Running:
    """Return the round after some seconds more without the address of rank 0."""
    if published:
        return replace(running, unpublished=0.0, unheard=0.0)
    unheard = 0.0 if heard & _first_rank(running) else running.unheard + passed
    return replace(running, unpublished=running.unpublished + passed, unheard=unheard)


def _heard_again(known: LifeSigns, clock: float) -> LifeSigns:
    return known._replace(heard=max(known.heard, clock), reached=None if known.reached is None else clock)


def _connected(node: Node, known: LifeSigns, peers: frozenset[str], now: float) -> LifeSigns:
    if plain_address(node.address) in peers:
        return known._replace(connected=True, disconnected_at=None)
    if known.connected and known.disconnected_at is None:
        return known._replace(disconnected_at=now)
    return known


def _reached(node: Node, known: LifeSigns, unanswered: Mapping[str, float], clock: float) -> LifeSigns:
    seconds = unanswered.get(plain_address(node.address))
    if seconds is None or (known.reached is not None and seconds >= ANSWER_SECONDS):
        return known
    return known._replace(reached=clock if known.reached is None else max(known.reached, clock - seconds))


def vouch(decision: Decision, now: float) -> Decision:
    """Prevent that agents drop nodes: old torch does so after 15 s without a heartbeat, even with its own node.

    If the store was unreachable for that long, all heartbeats are old, and no agent would send another.
    """
    view, memory = decision.view, decision.memory
    running, interval = memory.running, memory.interval
    dropped: frozenset[Node] = frozenset()
    if running and not view.complete and view.round == running.round + 1:  # a member that leaves it is listed
        dropped = running.still - view.listed() - set(view.heartbeats)
    old = {
        node
        for node, known in memory.signs.items()
        if now - known.beat_at > VOUCH_BEATS * interval and node in view.heartbeats
    }
    beats, signs = dict(view.heartbeats), dict(memory.signs)
    unseen = dict(running.beats) if running else {}
    for node in (old | dropped & set(signs)) - silent(memory) - disconnected(now, memory):
        known, at = signs[node], now - interval
        beats[node] = _in_its_time(known, at)
        signs[node] = known._replace(beat=beats[node], beat_at=max(at, known.beat_at))
        if unseen.get(node) == known.beat:  # the node itself has still to see the round
            unseen[node] = beats[node]
    running = replace(running, beats=unseen) if running else None
    return decision.show(replace(view, heartbeats=beats)).remember(signs=signs, running=running)


def _in_its_time(known: LifeSigns, at: float) -> float:
    """Return the host's time by the clock of the node, with the precision of the state."""
    beat = known.beat + max(0.0, at - known.beat_at)
    return datetime.fromtimestamp(beat, timezone.utc).timestamp()


def disconnected(now: float, memory: Memory) -> set[Node]:
    """Return the nodes whose agents have ended: the kernel closed their connections to the store."""
    return {
        node
        for node, known in memory.signs.items()
        if known.disconnected_at is not None and now - known.disconnected_at >= GONE_SECONDS
    }


def silent(memory: Memory) -> set[Node]:
    """Return the nodes that send nothing while others do: they are gone, cut off or frozen."""
    running, silence = memory.running, {node: memory.clock - known.heard for node, known in memory.signs.items()}
    unreachable = {
        node
        for node, known in memory.signs.items()
        if known.reached is not None and memory.clock - known.reached >= UNREACHABLE_SECONDS
    }
    found = unreachable | {node for node, seconds in silence.items() if seconds >= SILENT_BEATS * memory.interval}
    given_up = found & memory.evicted
    if 2 * len(found - given_up) > len(silence) - len(given_up):
        found = {node for node in found if node in given_up or silence[node] >= SILENT_MANY_SECONDS}
    if running and running.unpublished:
        # Members that wait for rank 0's address send no heartbeats meanwhile. Heartbeats judge only rank 0 then.
        found -= running.still - unreachable
        if running.unheard >= MASTER_SECONDS or running.unpublished >= SILENT_MANY_SECONDS:
            found |= _first_rank(running)
    return found


def _first_rank(running: Running) -> set[Node]:
    return {node for node in running.still if running.members[node] == 0}


def astray(view: View, memory: Memory, without: set[Node]) -> set[Node]:
    """Return the nodes that are heard again after the others continued without them, except those in `without`.

    They run workers of a round that no longer exists.
    """
    still = memory.running.still if memory.running else frozenset()
    return set(view.heartbeats) - view.listed() - still - without
