"""The rendezvous host of one job: torchrun's c10d store in a process of its own, and the driver of its rounds.

Runs inside the job's image (standard library and torch >= 2.6, Python >= 3.10) as a single file:
``step`` decides, without I/O; ``Driver`` reads and writes torchrun's state; ``Handler`` is the HTTP side.

A round, as torchrun's agents see it (the state in the store) and as this program drives it:

    open ──(wanted nodes joined)──> complete ──(every member has seen it)──> next round open, members keep running
     ^                                  │                                              │
     └──(every member left) <── kick: a node that does not exist waits, so agents restart and join again ──┘

Who is alive is judged here only, by connections to the store, by what the kernels at their other ends acknowledge, and
by heartbeats: agents are told never to drop anybody.
"""

from __future__ import annotations

import base64
import faulthandler
import hashlib
import hmac
import inspect
import io
import ipaddress
import json
import math
import os
import pickle
import pickletools
import secrets
import select
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import parse_qs, urlsplit

T = TypeVar("T")
if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _NodeDesc, _RendezvousState

UTC = timezone.utc  # noqa: UP017 - datetime.UTC needs Python 3.11, the job's image may have 3.10
ESTABLISHED = "01"
TICK_SECONDS = 0.1
LOOK_PAUSE, MOST_LOOK_SECONDS = 10, 0.5  # a look at the connections may take a tenth of the time; see GONE_SECONDS
HURRY_SECONDS = 0.002  # while a node that comes could be seen waiting by members of a fresh round
STALE_SECONDS = 15.0  # without a good tick for so long, /healthz says so
FATAL_SECONDS = 60.0  # after so many the process ends: a store in its place can only be better
GONE_SECONDS = 1.0  # agents never connect again; the kernel's list may leave one out now and then, but not twice
HEARTBEAT_SECONDS, OLD_HEARTBEAT_SECONDS = 2.0, 5.0  # old torch, 2.6 for one, does not take the interval it is told
SILENT_BEATS = 4  # without so many a node is silent; the first comes after up to two intervals
VOUCH_BEATS = 2.2  # without so many the host keeps agents from dropping a node by themselves, old torch's after three
QUIET_BEATS = 2.5  # if nobody was heard for so long, silence says nothing about anybody
UNREACHABLE_SECONDS = 4.0  # a machine that acknowledges nothing for so long is cut off, or gone
ANSWER_SECONDS = 1.5  # idle connections are probed every second
SILENT_MANY_SECONDS = 30.0  # if more than half of the nodes are silent, it is rather the host that does not hear them
FORGET_SECONDS = 120.0  # a silent agent that could not reach the store for so long has ended
STALL_SECONDS = 0.5  # a longer time between two looks is the host's own stall, not the nodes'
MASTER_SECONDS = 10.0  # rank 0 publishes its address at once; the others wait for it in silence
AWAY_SECONDS = 5.0  # the operator always has a request under way, and comes back within 5 s after a failure
AWAY_LAST_CALL = 1.0  # whom a last call without an operator waits for: members that left a moment later than others
DISTURBED_SECONDS = 5.0  # a member that leaves so soon after a stranger waited has seen the stranger
SIGHT_SECONDS = 1.5  # agents look for a round every second, so by then each has seen a complete one
ASIDE_SECONDS = 3.0  # nodes that were set aside try again every second
MISSING_SECONDS = 60.0  # an agent gives its workers 30 s to stop and is back at once
PACE_SECONDS = 86400.0  # how long a pause of the training is remembered, at least
STORE_TIMEOUT = timedelta(seconds=10)
MAX_NODES = 1_048_576
MAX_LEAVERS = 16_384
MAX_INT = 2**53
MAX_STATE_BYTES, MAX_STATE_NODES = 8 << 20, 16_384  # the store itself takes no larger values
TARGET_BYTES, PROGRESS_BYTES = 1 << 20, 64 << 10
MAX_CONNECTIONS, MAX_CONNECTIONS_PER_CLIENT = 256, 32
PROGRESS_SECONDS = 2.0
POLL_SECONDS = 60.0


# --- decisions -------------------------------------------------------------------------------------------------------


class Node(NamedTuple):
    """A node as torchrun describes it; sorted like there, which decides the ranks."""

    address: str
    pid: int
    local_id: int


KICK = Node("~torchrun-operator", 0, 0)  # waits in every round that has to end; it never has a heartbeat


@dataclass(frozen=True)
class View:
    """What torchrun's state says. Heartbeats in seconds since the epoch; finished: agents whose workers are done."""

    round: int = 0
    complete: bool = False
    closed: bool = False
    deadline: bool = False
    participants: Mapping[Node, int] = field(default_factory=dict)
    waiting: frozenset[Node] = frozenset()
    redundant: frozenset[Node] = frozenset()
    heartbeats: Mapping[Node, float] = field(default_factory=dict)
    finished: int = 0

    def listed(self) -> set[Node]:
        """Nodes in any list."""
        return {*self.participants, *self.waiting, *self.redundant}

    def joined(self) -> set[Node]:
        """Nodes in any list; without a heartbeat they are not an agent's (and would break it as participants)."""
        return {n for n in self.listed() if n in self.heartbeats}

    def unlisted(self, nodes: Iterable[Node]) -> View:
        """Drop nodes from every list. An agent that runs workers goes on sending heartbeats, so it can be heard."""
        gone = frozenset(nodes)
        return replace(
            self,
            participants={n: rank for n, rank in self.participants.items() if n not in gone},
            waiting=self.waiting - gone,
            redundant=self.redundant - gone,
        )

    def without(self, nodes: Iterable[Node]) -> View:
        """Drop nodes everywhere. Heartbeats go too: torch raises when it removes a node that has none."""
        gone = frozenset(nodes)
        return replace(
            self.unlisted(gone), heartbeats={n: beat for n, beat in self.heartbeats.items() if n not in gone}
        )


@dataclass(frozen=True)
class Target:
    """What the operator wants: how many nodes, at least how many, seconds to wait for more, and who must not be in.

    close ends the rendezvous for good: agents exit as soon as they look for the next round, which they do at once.
    end_round names a round, and the process it runs in, that has to end though nobody left it.
    deadline is how many seconds may pass between two reported steps, start_deadline those until there are two in a
    round; without them nothing is overdue.
    """

    generation: int
    size: int
    minimum: int
    last_call: float
    leavers: frozenset[str] = frozenset()
    close: bool = False
    end_round: tuple[str, int] | None = None
    deadline: float | None = None
    start_deadline: float | None = None


class Senses(NamedTuple):
    """What the host notices beside the state in the store."""

    peers: frozenset[str] | None = None  # addresses that are connected to the store; None: nobody has looked, or can
    unanswered: Mapping[str, float] | None = None  # for how many seconds these addresses have acknowledged nothing
    published: bool = True  # rank 0 of the complete round has said where it is
    away: bool = False  # the operator was not heard of lately
    interval: float = HEARTBEAT_SECONDS  # between an agent's heartbeats


UNAWARE = Senses()


class Seen(NamedTuple):
    """What is known of a node's life."""

    beat: float  # its last heartbeat, by its own clock
    heard: float  # when that was first seen, by Memory.clock
    connected: bool = False  # its address was seen among the peers of the store
    missing: float | None = None  # since when it is not any more; seconds since the epoch
    at: float = math.inf  # the host's time at the heartbeat; seconds since the epoch
    reached: float | None = None  # when its machine last acknowledged something, by Memory.clock


@dataclass(frozen=True)
class Running:
    """A complete round: its members by rank, who of them is still in, and why it ends."""

    round: int
    members: Mapping[Node, int]
    still: frozenset[Node]
    beats: Mapping[Node, float]  # heartbeats at completion: a newer one says that the member has seen it
    kicked: bool = False
    requested: bool = False
    first_left: tuple[str, ...] = ()
    first_left_at: float = 0.0
    disturbed_at: float = -math.inf
    repaired: bool = False
    unpublished: float = 0.0  # seconds that members have waited for rank 0's address, the host's stalls not counted


@dataclass(frozen=True)
class Memory:
    """What the state in the store does not say. Times in seconds since the epoch."""

    running: Running | None = None
    former: frozenset[str] = frozenset()  # addresses of the last complete round: they come before spares
    seen: Mapping[Node, Seen] = field(default_factory=dict)
    clock: float = 0.0  # seconds in which the host was awake and heard somebody: silence is measured by it
    interval: float = HEARTBEAT_SECONDS
    looked_at: float = math.inf
    heard_at: float = -math.inf
    evicted: frozenset[Node] = frozenset()
    aside: Mapping[str, float] = field(default_factory=dict)  # alive but not wanted in the round; when last seen
    awaited: Mapping[str, float] = field(default_factory=dict)  # members of an ended round that are not back; since
    missing: tuple[str, ...] = ()  # those that should long be back
    enough_since: float | None = None
    growth_since: float | None = None
    forming_since: float | None = None
    formation_seconds: float | None = None
    completed_at: float | None = None
    rounds: int = 0
    rounds_alone: int = 0  # completed while the operator was away
    requested: int = 0
    unrequested: int = 0
    reopened: int = 0
    evictions: Mapping[str, int] = field(default_factory=dict)  # by reason
    last_unrequested: tuple[int, tuple[str, ...], float] | None = None


Event = dict[str, object]  # of a log line; "event" says which


class Step(NamedTuple):
    """Result of a decision: the state to write, what to remember, what to log, and what else to do."""

    view: View
    memory: Memory
    events: tuple[Event, ...] = ()
    repair: int | None = None  # round whose MASTER_ADDR nobody is left to publish
    hurry: bool = False


def step(view: View, target: Target | None, now: float, memory: Memory, senses: Senses = UNAWARE) -> Step:
    """Decide what to do about the state: pure, so it can be repeated when somebody else wrote first.

    ``now`` in seconds since the epoch; it must never jump.
    """
    events: list[Event] = []
    memory = _listen(view, now, memory, senses)
    if target is not None and not view.finished:
        view, memory = _vouch(view, now, memory)
    if not view.finished:
        memory = _conclude(_observe(view, now, memory, events), now, events)
    if target is not None and not view.finished and target.close != view.closed:
        view, memory = _close(view, memory, events) if target.close else _reopen(view, memory, events)
    # After the end of any worker group a kick could only turn success into failure: such a job is left alone.
    if target is not None and not view.closed and not view.finished:
        view, memory = _evict(view, target, now, memory, events, senses)
        memory = _conclude(memory, now, events)
        if memory.running:
            view, memory = _tend(view, target, now, memory, events)
        else:
            view, memory = _form(view, target, now, memory, events, senses)
    repair = None
    running = memory.running
    if running and not running.repaired and not any(running.members[n] == 0 for n in running.still):
        repair = running.round
        memory = replace(memory, running=replace(running, repaired=True))
    aside = {address: at for address, at in memory.aside.items() if now - at < ASIDE_SECONDS}
    awaited = _awaited(view, target, now, memory)
    missing = tuple(sorted(address for address, at in awaited.items() if now - at > MISSING_SECONDS))
    memory = replace(memory, aside=aside, awaited=awaited, missing=missing)
    completed = memory.completed_at
    fresh = completed is not None and 0 <= now - completed < 2 * SIGHT_SECONDS
    return Step(view, memory, tuple(events), repair, hurry=view.complete and (fresh or bool(aside)))


def _listen(view: View, now: float, memory: Memory, senses: Senses) -> Memory:
    """Take note of who was heard, and of who is connected."""
    running, heard_at = memory.running, memory.heard_at
    passed = min(max(0.0, now - memory.looked_at), STALL_SECONDS)
    quiet = now - heard_at >= QUIET_BEATS * senses.interval
    clock = memory.clock + (0.0 if quiet else passed)
    seen = {n: known for n, known in memory.seen.items() if running and n in running.still}
    for node, beat in view.heartbeats.items():
        known = memory.seen.get(node, Seen(math.nan, clock))
        if known.beat != beat:
            known, heard_at = known._replace(beat=beat, heard=clock, at=now), now
        seen[node] = known
    if quiet and heard_at == now:  # the first that is heard again: the others have all their time from now on
        seen = {n: s._replace(heard=clock, reached=None if s.reached is None else clock) for n, s in seen.items()}
    if senses.peers is not None:
        seen = {node: _connected(node, known, senses.peers, now) for node, known in seen.items()}
    if senses.unanswered is not None:
        seen = {node: _reached(node, known, senses.unanswered, clock) for node, known in seen.items()}
    if running and view.complete:
        running = replace(running, unpublished=0.0 if senses.published else running.unpublished + passed)
    return replace(
        memory,
        running=running,
        seen=seen,
        clock=clock,
        interval=senses.interval,
        looked_at=now,
        heard_at=heard_at,
    )


def _connected(node: Node, known: Seen, peers: frozenset[str], now: float) -> Seen:
    if plain_address(node.address) in peers:
        return known._replace(connected=True, missing=None)
    return known._replace(missing=now) if known.connected and known.missing is None else known


def _reached(node: Node, known: Seen, unanswered: Mapping[str, float], clock: float) -> Seen:
    seconds = unanswered.get(plain_address(node.address))
    if seconds is None or (known.reached is not None and seconds >= ANSWER_SECONDS):
        return known
    return known._replace(reached=clock if known.reached is None else max(known.reached, clock - seconds))


def _vouch(view: View, now: float, memory: Memory) -> tuple[View, Memory]:
    """Keep agents from dropping others, which old torch does after 15 s without a heartbeat, its own node included.

    When the store was out of reach for so long, all heartbeats are old, and no agent would send another.
    """
    running, interval = memory.running, memory.interval
    dropped: frozenset[Node] = frozenset()
    if running and not view.complete and view.round == running.round + 1:  # nobody leaves it without a trace
        dropped = running.still - view.listed() - set(view.heartbeats)
    old = {n for n, s in memory.seen.items() if now - s.at > VOUCH_BEATS * interval and n in view.heartbeats}
    beats, seen = dict(view.heartbeats), dict(memory.seen)
    unseen = dict(running.beats) if running else {}
    for node in (old | dropped & set(seen)) - _silent(memory) - _disconnected(now, memory):
        known, at = seen[node], now - interval
        # In the node's own time, which may differ from the host's, and as exactly as the state holds it.
        beat = known.beat + max(0.0, at - known.at)
        beats[node] = datetime.fromtimestamp(beat, UTC).timestamp()
        seen[node] = known._replace(beat=beats[node], at=max(at, known.at))
        if unseen.get(node) == known.beat:  # the node itself has still to see the round
            unseen[node] = beats[node]
    running = replace(running, beats=unseen) if running else None
    return replace(view, heartbeats=beats), replace(memory, seen=seen, running=running)


def _disconnected(now: float, memory: Memory) -> set[Node]:
    """Return the nodes whose agents have ended: the kernel closed their connections to the store."""
    return {n for n, s in memory.seen.items() if s.missing is not None and now - s.missing >= GONE_SECONDS}


def _silent(memory: Memory) -> set[Node]:
    """Return the nodes that send nothing while others do: their machines are gone, cut off, or at a standstill."""
    running, silence = memory.running, {n: memory.clock - s.heard for n, s in memory.seen.items()}
    unreachable = {
        n for n, s in memory.seen.items() if s.reached is not None and memory.clock - s.reached >= UNREACHABLE_SECONDS
    }
    silent = unreachable | {n for n, seconds in silence.items() if seconds >= SILENT_BEATS * memory.interval}
    given_up = silent & memory.evicted
    if 2 * len(silent - given_up) > len(silence) - len(given_up):
        silent = {n for n in silent if n in given_up or silence[n] >= SILENT_MANY_SECONDS}
    if running and running.unpublished:
        # Members that wait for rank 0's address send no heartbeats meanwhile, so only rank 0 is to be judged by them.
        silent -= running.still - unreachable
        if running.unpublished >= MASTER_SECONDS:
            silent |= {n for n in running.still if running.members[n] == 0}
    return silent


def _astray(view: View, memory: Memory, silent: set[Node]) -> set[Node]:
    """Return the nodes that are heard again after others went on without them: they run workers nobody waits for."""
    still = memory.running.still if memory.running else frozenset()
    return set(view.heartbeats) - view.listed() - still - silent


def _still(view: View, running: Running) -> frozenset[Node]:
    """Return the members that have not left. While the next round is open they are in no list."""
    if view.complete and view.round == running.round:
        return frozenset(n for n in running.still if n in view.participants)
    if not view.complete and view.round == running.round + 1:
        return running.still - view.listed()
    return frozenset()


def _observe(view: View, now: float, memory: Memory, events: list[Event]) -> Memory:
    """Notice members that left by themselves."""
    running = memory.running
    if running is None:
        if view.complete and view.participants:  # completed by the agents themselves
            running = _started(view)
            events.append({"event": "round-found", "round": view.round, "members": _addresses(running.members)})
            memory = replace(memory, running=running, rounds=memory.rounds + 1, completed_at=now)
        return memory
    still = _still(view, running)
    gone = running.still - still
    if not gone:
        return memory
    events.append({"event": "left", "round": running.round, "addresses": _addresses(gone)})
    return replace(memory, running=_left(replace(running, still=still), gone, now))


def _left(running: Running, nodes: Iterable[Node], now: float) -> Running:
    """Remember who left first, unless the end of the round was asked for before."""
    addresses = _addresses(nodes)
    if not addresses or running.requested or running.first_left:
        return running
    if now - running.disturbed_at < DISTURBED_SECONDS:
        return replace(running, requested=True)
    return replace(running, first_left=addresses, first_left_at=now)


def _conclude(memory: Memory, now: float, events: list[Event]) -> Memory:
    """Count the end of a round once nobody is left in it: only then it is known whether a member had died."""
    running = memory.running
    if running is None or running.still:
        return memory
    asked = running.requested or not running.first_left
    former = frozenset(_addresses(running.members))
    memory = replace(memory, running=None, former=former, forming_since=now, enough_since=None, growth_since=None)
    events.append({"event": "round-ended", "round": running.round, "requested": asked})
    if asked:
        return replace(memory, requested=memory.requested + 1)
    last = (running.round, running.first_left, running.first_left_at)
    return replace(memory, unrequested=memory.unrequested + 1, last_unrequested=last)


def _close(view: View, memory: Memory, events: list[Event]) -> tuple[View, Memory]:
    events.append({"event": "closing", "round": view.round})
    running = memory.running
    if running is None or view.finished:
        return replace(view, closed=True), memory
    memory = replace(memory, running=replace(running, kicked=True, requested=not running.first_left))
    return replace(view, closed=True, waiting=view.waiting | {KICK}), memory


def _reopen(view: View, memory: Memory, events: list[Event]) -> tuple[View, Memory]:
    """Undo that an agent closed the rendezvous for all when it failed, or was told to end (torch before 2.8)."""
    events.append({"event": "reopened", "round": view.round})
    return replace(view, closed=False), replace(memory, reopened=memory.reopened + 1)


PROBES = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 127),  # the most that Linux takes; as long as FORGET_SECONDS
)
LAST_ACKNOWLEDGED = 56  # offset of tcpi_last_ack_recv (milliseconds, 4 bytes) in struct tcp_info of linux/tcp.h
EVICTIONS = ("not wanted", "replaced", "disconnected", "silent")


def _evict(
    view: View, target: Target, now: float, memory: Memory, events: list[Event], senses: Senses
) -> tuple[View, Memory]:
    """Drop leavers, the dead, and the older of two processes at one address: an agent that came back unannounced."""
    known = {n for n in (*view.heartbeats, *view.listed()) if n != KICK}
    leavers = {n for n in known if n.address in target.leavers}
    newest: dict[str, Node] = {}
    for node in sorted(known - leavers, key=lambda n: (view.heartbeats.get(n, -math.inf), n)):
        newest[node.address] = node
    stale = known - leavers - set(newest.values())
    dead = (_disconnected(now, memory) & known) - leavers - stale
    silent = (_silent(memory) & known) - leavers - stale - dead
    held = _held(view, leavers | stale | dead | silent, now, memory)
    gone = (leavers | stale | dead | silent) - held
    running, aside = memory.running, memory.aside
    early: frozenset[Node] = frozenset()
    if running:
        requested = running.requested or not (leavers | dead | silent).isdisjoint(running.still)
        running = _left(replace(running, requested=requested), stale & running.still, now)
        running = replace(running, still=running.still - gone)
        if not running.kicked:  # who comes after a member that is held would make the others leave before all are in
            early = view.waiting & {newest[n.address] for n in held & stale}
        hidden = view.waiting & (gone | early)
        if view.complete and hidden:  # members may have seen them waiting
            running = replace(running, disturbed_at=now)
            aside = {**aside, **{n.address: now for n in hidden}}
    fresh = gone - memory.evicted
    evictions = dict(memory.evictions)
    for reason, nodes in zip(EVICTIONS, (leavers, stale, dead, silent), strict=True):
        if new := nodes & fresh:
            event = {"event": "evicted", "addresses": _addresses(new), "reason": reason, "round": view.round}
            events.append({**event, "operatorAway": senses.away})
            evictions[reason] = evictions.get(reason, 0) + len(new)
    evicted = frozenset(n for n in memory.evicted if n.address in target.leavers) | gone
    memory = replace(memory, running=running, evicted=evicted, evictions=evictions, aside=aside)
    forgotten = {n for n in silent if memory.clock - memory.seen[n].heard >= FORGET_SECONDS}
    return view.without((gone - silent) | forgotten | early).unlisted(gone), memory


def _held(view: View, gone: set[Node], now: float, memory: Memory) -> frozenset[Node]:
    """Return who of the gone stays for now: members yet to see the round would take it for a smaller one than others.

    They see it within a second; a bound on that keeps one that never looks from keeping the round as it is.
    """
    running, completed = memory.running, memory.completed_at
    if running is None or completed is None or not view.complete or not 0 <= now - completed < SIGHT_SECONDS:
        return frozenset()
    waited_for = any(view.heartbeats.get(n) == running.beats[n] for n in running.still - gone)
    return frozenset(n for n in gone if n in view.participants) if waited_for else frozenset()


def _tend(view: View, target: Target, now: float, memory: Memory, events: list[Event]) -> tuple[View, Memory]:
    """Look after a complete round: end it if it lost a member or can grow, else keep strangers from disturbing it."""
    running = memory.running
    assert running is not None
    joiners = view.joined() - running.still
    more = joiners | _astray(view, memory, _silent(memory))
    lost = len(running.still) < len(running.members)
    hung = target.end_round is not None and target.end_round[1] == running.round
    growing = bool(joiners if view.complete else more) and len(running.still) < target.size and not lost
    since = (memory.growth_since if memory.growth_since is not None else now) if growing else None
    memory = replace(memory, growth_since=since)
    if growing and not running.kicked and not view.complete:
        # Training goes on while more of the wanted nodes are on their way.
        all_here = len(running.still) + len(more) >= target.size
        growing = all_here or (since is not None and now - since >= target.last_call)
    if lost or growing or hung or running.kicked:
        if not running.kicked:
            reason = "a member is gone" if lost else "no progress" if hung else "more nodes joined"
            events.append({"event": "round-kicked", "round": running.round, "reason": reason})
            running = replace(running, kicked=True, requested=running.requested or growing or hung)
        return replace(view, waiting=view.waiting | {KICK}), replace(memory, running=running)
    if view.complete and joiners:
        # Not wanted, yet every member that sees them waiting restarts. They come back each second until the next
        # round is open, where they can wait as its participants without anybody noticing.
        aside = {**memory.aside, **{n.address: now for n in joiners}}
        memory = replace(memory, running=replace(running, disturbed_at=now), aside=aside)
        return view.without(joiners), memory
    seen = all(view.heartbeats.get(n, beat) != beat for n, beat in running.beats.items())
    if view.complete and seen and not view.waiting and not view.redundant:
        events.append({"event": "round-settled", "round": running.round})
        view = replace(view, round=view.round + 1, complete=False, deadline=False, participants={})
    return view, memory


def _awaited(view: View, target: Target | None, now: float, memory: Memory) -> dict[str, float]:
    """Return who was in a round that had to end and is neither wanted away nor back, and since when."""
    if view.closed or view.finished:
        return {}
    running = memory.running
    leaving = {n.address for n in running.members} if running and running.kicked else set()
    old = {n.address for n in running.still} if running and running.kicked else set()
    here = {n.address for n in view.joined()} - old
    if running and not running.kicked:
        here |= {n.address for n in running.still}
    unwanted = target.leavers if target else frozenset()
    return {address: memory.awaited.get(address, now) for address in ({*memory.awaited} | leaving) - here - unwanted}


def _form(
    view: View, target: Target, now: float, memory: Memory, events: list[Event], senses: Senses
) -> tuple[View, Memory]:
    """Bring the open round to completion, with exactly the wanted nodes or, after the last call, with what is there."""
    if view.complete:  # every member was evicted
        view = replace(view, complete=False, round=view.round + 1)
    nodes = view.joined()
    view = replace(
        view,
        deadline=False,  # agents past their own deadline would complete the round themselves
        participants={n: view.participants.get(n, 0) for n in nodes},
        waiting=frozenset({KICK} if _astray(view, memory, _silent(memory)) else ()),
        redundant=frozenset(),
    )
    if nodes and memory.forming_since is None:
        memory = replace(memory, forming_since=now)
    enough = len(nodes) >= target.minimum
    since = (memory.enough_since if memory.enough_since is not None else now) if enough else None
    memory = replace(memory, enough_since=since)
    if since is None or target.size < target.minimum:
        return view, memory
    # Without an operator nobody replaces a lost node, and the members that are left have come when the round opens.
    last_call = min(target.last_call, AWAY_LAST_CALL) if senses.away and memory.rounds else target.last_call
    if len(nodes) < target.size and now - since < last_call:
        return view, memory
    chosen = sorted(sorted(nodes, key=lambda n: (n.address not in memory.former, n))[: target.size])
    surplus = nodes - set(chosen)
    members = {n: rank for rank, n in enumerate(chosen)}
    view = replace(view.without(surplus), complete=True, participants=members, waiting=frozenset())
    running = _started(view)
    took = now - (memory.forming_since if memory.forming_since is not None else now)
    events.append(
        {
            "event": "round-completed",
            "round": view.round,
            "members": _addresses(chosen),
            "surplus": _addresses(surplus),
            "seconds": round(took, 3),
        }
    )
    aside = {**memory.aside, **{n.address: now for n in surplus}}
    return view, replace(
        memory,
        running=running,
        rounds=memory.rounds + 1,
        rounds_alone=memory.rounds_alone + senses.away,
        completed_at=now,
        formation_seconds=took,
        enough_since=None,
        aside=aside,
    )


def _started(view: View) -> Running:
    members = dict(view.participants)
    beats = {n: view.heartbeats.get(n, -math.inf) for n in members}
    return Running(round=view.round, members=members, still=frozenset(members), beats=beats)


def _addresses(nodes: Iterable[Node]) -> tuple[str, ...]:
    return tuple(sorted({n.address for n in nodes}))


@dataclass(frozen=True)
class Pace:
    """When the workers of the running round last reported a step, and how long they take between two.

    Seconds in which this process stood still are not counted: reports of that time may not have been read yet. A round
    has started once it has reported two steps: a script may report step 0 before it compiles its model for minutes.
    """

    round: int | None = None
    mark: tuple[object, object] | None = None  # the step last reported, and the beat
    steps: int = 0
    done: bool = False  # every step is done: what comes now has no steps to report
    idle: float = 0.0  # since the mark changed, or while the round starts, since it began
    since: float = 0.0  # the same as a time, in seconds since the epoch
    pauses: tuple[float, float] = (0.0, 0.0)  # the longest of the last PACE_SECONDS, and of those before
    age: float = 0.0
    longest_start: float | None = None

    @property
    def starting(self) -> bool:
        """Whether the round has not got to its second step yet."""
        return self.steps < 2

    @property
    def limited(self) -> bool:
        """Whether it is known that a step is to come."""
        return self.round is not None and not self.done and (not self.starting or self.longest_start is not None)

    def ticked(self, running: Running | None, seconds: float, now: float) -> Pace:
        """Let time pass; notice that another round runs, or none."""
        seconds = min(seconds, 1.0)
        number = running.round if running and not running.kicked else None
        pace = replace(self, idle=self.idle + seconds, age=self.age + seconds)
        if pace.age >= PACE_SECONDS:
            pace = replace(pace, pauses=(0.0, pace.pauses[0]), age=0.0)
        if number == pace.round:
            return pace
        # What was cut short would have taken longer: if that was no hang, the next time it may. But as long as no
        # round has ever started, nobody knows whether the script reports at all.
        if pace.limited:
            pace = pace.timed()
        return replace(pace, round=number, mark=None, steps=0, done=False, idle=0.0, since=now)

    def reported(self, progress: Mapping[str, object], now: float) -> Pace:
        """Take note of what a worker says; the same step once more is no progress."""
        mark = (progress["step"], progress["beat"])
        if self.round is None or mark == self.mark:
            return self
        pace = self.timed() if self.steps else self
        pace = replace(pace, mark=mark, steps=self.steps + 1, done=progress["step"] == progress["totalSteps"])
        return pace if pace.steps == 1 else replace(pace, idle=0.0, since=now)

    def timed(self) -> Pace:
        """Remember how long this pause was."""
        if self.starting:
            return replace(self, longest_start=max(self.idle, self.longest_start or 0.0))
        return replace(self, pauses=(max(self.idle, self.pauses[0]), self.pauses[1]))

    def limit(self, target: Target | None) -> float | None:
        """Return the seconds after which the round is overdue; None: never."""
        if target is None or self.round is None or self.done:
            return None
        return target.start_deadline if self.starting else target.deadline

    @property
    def shown(self) -> float:
        """What the metrics say: 0 while no step is to come."""
        return round(self.idle, 1) if self.limited else 0.0

    def document(self, target: Target | None) -> dict[str, object]:
        """Return the part of the state document that is about time; it changes seldom."""
        limit = self.limit(target)
        overdue = None
        if limit is not None and self.idle >= limit:
            step, since = self.mark[0] if self.mark else None, _rfc3339(self.since)
            overdue = {"round": self.round, "step": step, "starting": self.starting, "seconds": limit, "since": since}
        longest = _power_of_two(self.longest_start) if self.longest_start is not None else None
        pause = _power_of_two(max(self.pauses))
        return {"longestPauseSeconds": pause, "longestStartSeconds": longest, "overdue": overdue}


def _power_of_two(seconds: float) -> int:
    """Round up, at least to 1, so that the operator hears of a longer pause a dozen times in a job's life."""
    return 1 << math.ceil(math.log2(max(1.0, seconds)))


def describe(view: View, memory: Memory, target: Target | None) -> dict[str, object]:
    """Return the part of the state document that the store and the decisions determine."""
    running = memory.running
    leavers = target.leavers if target else frozenset()
    still = running.still if running else frozenset()
    members = sorted((running.members[n], n.address) for n in still) if running else []
    unseen = view.joined() | _astray(view, memory, _silent(memory))
    waiting = {n.address for n in unseen - still} | set(memory.aside)
    last = memory.last_unrequested
    return {
        "round": running.round if running else view.round,
        "complete": running is not None and not running.kicked and len(still) == len(running.members),
        "closed": view.closed,
        "finished": view.finished,
        "members": [{"address": address, "rank": rank} for rank, address in members],
        "waiting": sorted(waiting - leavers),
        "silent": sorted({n.address for n in _silent(memory)} - leavers),
        "missing": list(memory.missing),
        "roundsEnded": {"requested": memory.requested, "unrequested": memory.unrequested},
        "lastUnrequested": {"round": last[0], "addresses": list(last[1]), "time": _rfc3339(last[2])} if last else None,
        "completedAt": _rfc3339(memory.completed_at) if memory.completed_at is not None else None,
    }


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- torchrun's state in the store -----------------------------------------------------------------------------------


class StateError(Exception):
    """What the store holds is no state of torch's. Its agents never write such a thing; others who reach it can."""


class Codec:
    """Between torch's pickled state and a view of it; what a view does not hold stays in the state as it is.

    Nothing in a pickle can name anything but times and torch's two state classes, and for these it gets stand-ins made
    for the occasion: a pickle can also change the classes that it is given.
    """

    SENTINEL = b"Y2FuaW1hZGFt"  # torch's own mark for "no state yet"

    def __init__(self, state_class: type[_RendezvousState], node_class: type[_NodeDesc]) -> None:
        self._state_class, self._node_class = state_class, node_class

    def decode(self, raw: bytes) -> State | None:
        """Return the state, or None if there is none yet. Raises StateError."""
        if raw == self.SENTINEL:
            return None
        if len(raw) > MAX_STATE_BYTES:
            raise StateError(f"{len(raw)} bytes")
        classes = {
            (self._state_class.__module__, self._state_class.__name__): type("State", (State,), {}),
            (self._node_class.__module__, self._node_class.__name__): type("Desc", (Desc,), {}),
            **{(c.__module__, c.__name__): c for c in (datetime, timezone, timedelta)},
        }

        class Unpickler(pickle.Unpickler):
            def find_class(self, module: str, name: str) -> object:
                if (module, name) not in classes:
                    raise pickle.UnpicklingError(f"refused to load {module}.{name}")
                return classes[module, name]

        try:
            pickled = base64.b64decode(raw, validate=True)
            _check_opcodes(pickled)
            state = Unpickler(io.BytesIO(pickled)).load()
        except Exception as error:  # a pickle can raise nearly anything
            raise StateError(repr(error)[:300]) from None
        if not isinstance(state, State):
            raise StateError(f"a {type(state).__name__}")
        return state

    def view(self, state: State | None, finished: int) -> View:
        """Return the view of a state. Raises StateError if torch's agents could not have written it."""
        if state is None:
            return View()
        try:
            return _view(state, finished)
        except StateError:
            raise
        except Exception as error:
            raise StateError(repr(error)[:300]) from None

    def encode(self, state: State, view: View) -> bytes:
        """Change a state to what the view says and return it as the store holds it."""
        state.round, state.complete, state.closed = view.round, view.complete, view.closed
        if not view.deadline:
            state.deadline = None
        state.participants = {Desc(*n): rank for n, rank in view.participants.items()}
        state.wait_list = {Desc(*n) for n in view.waiting}
        state.redundancy_list = {Desc(*n) for n in view.redundant}
        beats = {_node(d): b for d, b in state.last_heartbeats.items()}
        state.last_heartbeats = {
            Desc(*n): beats[n] if n in beats and beats[n].timestamp() == b else datetime.fromtimestamp(b, UTC)
            for n, b in view.heartbeats.items()
        }
        state_class, node_class = self._state_class, self._node_class

        class Pickler(pickle.Pickler):
            def reducer_override(self, thing: object) -> Any:  # noqa: ANN401 - as pickle declares it
                if isinstance(thing, Desc):
                    return node_class, tuple(_node(thing))
                return (state_class, (), vars(thing)) if isinstance(thing, State) else NotImplemented

        buffer = io.BytesIO()
        Pickler(buffer, protocol=4).dump(state)
        return base64.b64encode(buffer.getvalue())


class State:
    """Stands for torch's _RendezvousState, and has its attributes."""

    round: int
    complete: bool
    closed: bool
    deadline: datetime | None
    participants: dict[Desc, int]
    wait_list: set[Desc]
    redundancy_list: set[Desc]
    last_heartbeats: dict[Desc, datetime]


class Desc:
    """Stands for torch's _NodeDesc, and has its attributes."""

    def __init__(self, addr: str, pid: int, local_id: int) -> None:
        self.addr, self.pid, self.local_id = addr, pid, local_id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Desc) and _node(self) == _node(other)

    def __hash__(self) -> int:
        return hash((self.addr, self.pid, self.local_id))


def _view(state: State, finished: int) -> View:
    beats = state.last_heartbeats.items()
    view = View(
        round=_checked(state.round, int),
        complete=_checked(state.complete, bool),
        closed=_checked(state.closed, bool),
        deadline=state.deadline is not None,
        participants={_node(d): _checked(rank, int) for d, rank in state.participants.items()},
        waiting=frozenset(_node(d) for d in state.wait_list),
        redundant=frozenset(_node(d) for d in state.redundancy_list),
        heartbeats={_node(d): _checked(beat, datetime).timestamp() for d, beat in beats},
        finished=finished,
    )
    if not 0 <= view.round <= MAX_INT or KICK in view.heartbeats or KICK in view.participants:
        raise StateError("a round or a node that cannot be")
    if len(view.listed() | set(view.heartbeats)) > MAX_STATE_NODES:
        raise StateError(f"more than {MAX_STATE_NODES} nodes")
    return view


def _node(desc: Desc) -> Node:
    if len(_checked(desc.addr, str)) > 255:
        raise StateError("an address above 255 characters")
    return Node(desc.addr, _checked(desc.pid, int), _checked(desc.local_id, int))


def _checked(value: object, kind: type[T]) -> T:
    if type(value) is not kind:
        raise StateError(f"a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _argument_lengths() -> tuple[dict[int, int], dict[int, int]]:
    """Return, by code, how long the arguments of a pickle's operations are, and how long the lengths before them."""
    counted = {
        pickletools.TAKEN_FROM_ARGUMENT1: 1,
        pickletools.TAKEN_FROM_ARGUMENT4: 4,
        pickletools.TAKEN_FROM_ARGUMENT4U: 4,
        pickletools.TAKEN_FROM_ARGUMENT8U: 8,
    }
    fixed, prefixed = {}, {}
    for operation in pickletools.opcodes:
        size = 0 if operation.arg is None else operation.arg.n
        if size >= 0:
            fixed[ord(operation.code)] = size
        elif size in counted:
            prefixed[ord(operation.code)] = counted[size]
    del fixed[ord(pickle.LONG_BINPUT)]  # takes memory for as many entries as it likes
    return fixed, prefixed


FIXED, PREFIXED = _argument_lengths()


def _check_opcodes(pickled: bytes) -> None:
    """Refuse operations of old protocols: torch uses none, and one of them could take all memory."""
    position, end = 0, len(pickled)
    while position < end:
        code = pickled[position]
        if code in FIXED:
            position += 1 + FIXED[code]
        else:
            start = position + 1 + PREFIXED[code]
            position = start + int.from_bytes(pickled[position + 1 : start], "little")


class Driver(threading.Thread):
    """Hosts the store and moves the rounds on; the only one that talks to the store."""

    def __init__(self, rendezvous_id: str, port: int, board: Board) -> None:
        super().__init__(name="driver", daemon=True)
        self._prefix = f"torch.rendezvous.{rendezvous_id}"
        self._port = port
        self._board = board
        self._memory = Memory()
        self._good = Codec.SENTINEL.decode()  # the last state that was one
        self._epoch = time.time() - time.monotonic()
        self._ticked_at, self._armed_at = 0.0, -math.inf
        self._look_at = -math.inf
        self._interval = HEARTBEAT_SECONDS

    def run(self) -> None:
        """Serve until the process ends; a store that cannot be opened ends it."""
        began = time.monotonic()
        try:
            store, codec = self._open()
        except Exception as error:
            log({"event": "store-failed", "error": repr(error)})
            os._exit(1)
        log({"event": "store-up", "port": self._port, "seconds": round(time.monotonic() - began, 2)})
        self._ticked_at = time.monotonic()
        while True:
            self._arm()
            self._board.wake.clear()
            try:
                pause = self._tick(store, codec)
                self._ticked_at = time.monotonic()
            except Exception as error:
                log({"event": "tick-failed", "error": repr(error)})
                pause = 1.0
            self._board.wake.wait(pause)

    def _arm(self) -> None:
        """Have the process ended FATAL_SECONDS after the last good tick, even if a tick hangs with all locks held."""
        if self._ticked_at > self._armed_at:
            self._armed_at = time.monotonic() + 1.0  # once per second is often enough
            faulthandler.dump_traceback_later(FATAL_SECONDS, exit=True)

    def _open(self) -> tuple[TCPStore, Codec]:
        # Imported here because it takes seconds: HTTP answers before, and a SIGTERM meanwhile ends the process.
        from torch.distributed import TCPStore  # type: ignore[attr-defined]  # noqa: PLC0415
        from torch.distributed.elastic.rendezvous import dynamic_rendezvous as torchs  # noqa: PLC0415

        store = TCPStore(
            "0.0.0.0",  # noqa: S104 - the nodes of the job are elsewhere
            self._port,
            is_master=True,
            wait_for_workers=False,
            multi_tenant=True,
            timeout=STORE_TIMEOUT,
        )
        store.compare_set(self._prefix, "", Codec.SENTINEL.decode())
        takes_interval = (
            "keep_alive_interval" in inspect.signature(torchs.DynamicRendezvousHandler.from_backend).parameters
        )
        self._interval = HEARTBEAT_SECONDS if takes_interval else OLD_HEARTBEAT_SECONDS
        return store, Codec(torchs._RendezvousState, torchs._NodeDesc)  # noqa: SLF001

    def _tick(self, store: TCPStore, codec: Codec) -> float:
        """Decide and write, again if an agent wrote in between; returns the seconds to the next tick."""
        target = self._board.target
        for _ in range(50):
            raw: bytes = store.get(self._prefix) if store.check([self._prefix]) else b""
            try:
                state = codec.decode(raw)
                view = codec.view(state, self._finished(store))
            except StateError as error:
                self._restore(store, error)
                continue
            self._good = raw.decode()
            # The clock is not asked for the date again: it may be set anew, and nobody has been silent for that.
            now = self._epoch + time.monotonic()
            result = step(view, target, now, self._memory, self._senses(store, view))
            if state is not None and result.view != view:
                new = codec.encode(state, result.view)
                if store.compare_set(self._prefix, self._good, new.decode()) != new:
                    continue
            self._memory = result.memory
            if result.repair is not None:
                self._repair(store, result.repair)
            for event in result.events:
                log(event)
            self._board.publish(result.view, result.memory, target)
            return HURRY_SECONDS if result.hurry else TICK_SECONDS
        return HURRY_SECONDS

    def _restore(self, store: TCPStore, error: StateError) -> None:
        """Put the last good state in the place of something else, which would end every agent that reads it."""
        log({"event": "state-restored", "error": str(error)})
        store.set(self._prefix, self._good)
        self._board.restored()

    def _senses(self, store: TCPStore, view: View) -> Senses:
        running, published = self._memory.running, True
        peers, unanswered = self._look()
        if running and view.complete and view.round == running.round:
            published = store.check([f"{self._prefix}.{running.round}/{key}" for key in ("MASTER_ADDR", "MASTER_PORT")])
        away = self._board.operator_silence() > AWAY_SECONDS
        return Senses(peers, unanswered, published, away, self._interval)

    def _look(self) -> tuple[frozenset[str] | None, dict[str, float] | None]:
        """Ask the kernel for the connections, if it is time: with thousands of them that takes a tenth of a second."""
        began = time.monotonic()
        if began < self._look_at:
            return None, None
        seen = connected_peers(self._port), unanswered_seconds(self._port)
        took = time.monotonic() - began
        self._look_at = began + min(max(TICK_SECONDS, LOOK_PAUSE * took), MOST_LOOK_SECONDS)
        return seen

    def _finished(self, store: TCPStore) -> int:
        """How many agents of the running round wait in torchrun's exit barrier."""
        if self._memory.running is None:
            return 0
        key = f"{self._prefix}.{self._memory.running.round}/torchelastic/agent/terminal_state/num_members"
        said = store.get(key) if store.check([key]) else b"0"
        return int(said) if said.isdigit() and len(said) < 10 else 0

    def _repair(self, store: TCPStore, number: int) -> None:
        """Publish what rank 0 no longer can, or the others would wait for it, time out and close the rendezvous.

        The address leads nowhere, which does not matter: the round has been kicked. A published one is kept.
        """
        for key, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
            if store.compare_set(f"{self._prefix}.{number}/{key}", "", value) == value.encode():
                log({"event": "repaired", "round": number, "key": key})


def connected_peers(port: int, directory: str = "/proc/net") -> frozenset[str] | None:
    """Return the addresses with an established connection to the port, as the kernel has it; None: it does not tell."""
    addresses = set()
    try:
        for table in ("tcp", "tcp6"):
            with Path(directory, table).open() as lines:
                for line in lines:
                    _, local, remote, state, *_ = line.split(maxsplit=4)
                    if state == ESTABLISHED and int(local.rpartition(":")[2], 16) == port:
                        addresses.add(_kernel_address(remote.partition(":")[0]))
    except (OSError, ValueError):
        return None
    return frozenset(addresses)


def unanswered_seconds(port: int, directory: str = "/proc/self/fd") -> dict[str, float] | None:
    """Return for how many seconds each address that is connected to this process's port has acknowledged nothing; None:
    the kernel does not tell.

    Idle connections are probed from now on, every second and so patiently that it ends none that others would keep.
    """
    found: dict[str, float] = {}
    try:
        descriptors = [int(entry.name) for entry in Path(directory).iterdir()]
    except (OSError, ValueError):
        return None
    for descriptor in descriptors:
        try:
            connection = socket.socket(fileno=descriptor)
        except OSError:
            continue  # it is no socket, or was closed just now
        try:
            peer, seconds = _unanswered(connection, port)
            found[peer] = min(seconds, found.get(peer, seconds))
        except OSError:
            pass  # it listens, or is none of this port's
        finally:
            connection.detach()  # it is the store's
    return found


def _unanswered(connection: socket.socket, port: int) -> tuple[str, float]:
    """Return who is at the other end, and for how long nothing was acknowledged. Raises OSError for another port's."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.getsockname()[1] != port:
        raise OSError
    peer = plain_address(connection.getpeername()[0])
    if not connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
        for level, option, value in PROBES:
            connection.setsockopt(level, option, value)
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, LAST_ACKNOWLEDGED + 4)
    return peer, int.from_bytes(info[LAST_ACKNOWLEDGED:], sys.byteorder) / 1000


def _kernel_address(text: str) -> str:
    """Write an address of /proc/net/tcp as people do: there it is in hex, in words of the machine's byte order."""
    words = bytes.fromhex(text)
    if sys.byteorder == "little":
        words = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
    return plain_address(str(ipaddress.ip_address(words)))


def plain_address(text: str) -> str:
    """Return the one way to write an IP address; an IPv4 address may come as an IPv6 one. Other names stay."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    return str(getattr(address, "ipv4_mapped", None) or address)


# --- what HTTP and the driver share ----------------------------------------------------------------------------------


class Board:
    """The current state document and target, guarded by one condition that long polls wait on."""

    def __init__(self) -> None:
        self.wake = threading.Event()
        self.target: Target | None = None
        self._changed = threading.Condition()
        self._instance = secrets.token_hex(8)
        self._version = 1
        self._ticked = -math.inf
        self._put: dict[str, object] | None = None
        self._body = {**describe(View(), Memory(), None), "pace": Pace().document(None)}
        self._progress: dict[str, object] | None = None
        self._pace = Pace()
        self._shown_progress: tuple[dict[str, object] | None, float] = (None, -math.inf)
        self._memory = Memory()
        self._operator_heard = time.monotonic()
        self._restored = 0

    def put(self, target: Target, document: dict[str, object]) -> dict[str, object]:
        """Take over a new target and return the state document."""
        with self._changed:
            self._operator_heard = time.monotonic()
            if document != self._put:
                if target.end_round is not None and target.end_round[0] != self._instance:
                    target = replace(target, end_round=None)  # of the host before this one
                self.target, self._put = target, document
                self._bump()
                self.wake.set()
            return self._document()

    def report(self, progress: dict[str, object]) -> dict[str, object]:
        """Take over what a worker says about its progress; return what it should know."""
        with self._changed:
            self._progress = progress
            self._pace = self._pace.reported(progress, time.time())
            self._show_progress()
            return {"progressDeadlineSeconds": self.target.deadline if self.target else None}

    def publish(self, view: View, memory: Memory, target: Target | None) -> None:
        """Take over what the driver found and did."""
        body = describe(view, memory, target)
        with self._changed:
            now = time.monotonic()
            running = None if view.finished or view.closed else memory.running
            self._pace = self._pace.ticked(running, now - self._ticked, time.time())
            body["pace"] = self._pace.document(target)
            self._ticked = now
            self._memory = memory
            if body["closed"] and not self._body["closed"]:
                log({"event": "closed", "round": body["round"]})
            if body != self._body:
                self._body = body
                self._bump()
            self._show_progress()

    def restored(self) -> None:
        """Count that something else than a state was in the store."""
        with self._changed:
            self._restored += 1

    def wait(self, after: int, timeout: float, connected: Callable[[], bool]) -> dict[str, object]:
        """Return the state document once its version is above ``after``, or when ``timeout`` seconds have passed.

        The operator is there as long as it waits for the answer.
        """
        end = time.monotonic() + timeout
        with self._changed:
            while connected():
                self._operator_heard = now = time.monotonic()
                if self._version > after or now >= end:
                    break
                self._changed.wait_for(lambda: self._version > after, min(1.0, end - now))
            return self._document()

    def operator_silence(self) -> float:
        """Return the seconds since the operator was last heard of; from the start, if it never was."""
        with self._changed:
            return time.monotonic() - self._operator_heard

    def healthy(self) -> bool:
        """Whether the store is up and was read lately."""
        with self._changed:
            return time.monotonic() - self._ticked < STALE_SECONDS

    def metrics(self) -> str:
        """Return the metrics in Prometheus' text format."""
        with self._changed:
            memory, body, pace, restored = self._memory, self._body, self._pace, self._restored
        running, silence = memory.running, self.operator_silence()
        lines = []
        for name, kind, text, value in (
            ("rounds_total", "counter", "Rounds completed.", memory.rounds),
            ("members", "gauge", "Members of the running round.", len(running.still) if running else 0),
            ("waiting", "gauge", "Nodes that wait for a round.", len(body["waiting"])),  # type: ignore[arg-type]
            ("operator_silence_seconds", "gauge", "Seconds since the operator was heard of.", round(silence, 3)),
            ("rounds_alone_total", "counter", "Rounds completed while the operator was away.", memory.rounds_alone),
            ("reopened_total", "counter", "Times an agent that failed closed the rendezvous.", memory.reopened),
            ("restored_states_total", "counter", "Times that the store held something else than a state.", restored),
            ("closed", "gauge", "1 once an agent closed the rendezvous.", int(bool(body["closed"]))),
            ("last_round_seconds", "gauge", "How long the last round took to form.", memory.formation_seconds or 0.0),
            ("seconds_without_step", "gauge", "How long the running round has reported no other step.", pace.shown),
        ):
            full = f"torchrun_rendezvous_{name}"
            lines += [f"# HELP {full} {text}", f"# TYPE {full} {kind}", f"{full} {value}"]
        full = "torchrun_rendezvous_rounds_ended_total"
        lines += [f"# HELP {full} Rounds ended, by whether that was asked for.", f"# TYPE {full} counter"]
        lines += [f'{full}{{requested="true"}} {memory.requested}', f'{full}{{requested="false"}} {memory.unrequested}']
        full = "torchrun_rendezvous_evictions_total"
        lines += [f"# HELP {full} Nodes dropped from the rendezvous, by why.", f"# TYPE {full} counter"]
        lines += [f'{full}{{reason="{reason}"}} {memory.evictions.get(reason, 0)}' for reason in EVICTIONS]
        return "\n".join(lines) + "\n"

    def _show_progress(self) -> None:
        shown, at = self._shown_progress
        now = time.monotonic()
        if self._progress is not shown and now - at >= PROGRESS_SECONDS:
            self._shown_progress = (self._progress, now)
            self._bump()

    def _bump(self) -> None:
        self._version += 1
        self._changed.notify_all()

    def _document(self) -> dict[str, object]:
        head = {"instance": self._instance, "version": self._version}
        return {**head, **self._body, "target": self._put, "progress": self._progress}


# --- HTTP ------------------------------------------------------------------------------------------------------------


class RequestError(Exception):
    """A request that is answered with a status above 399."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _integer(document: Mapping[str, object], key: str, low: int, high: int) -> int:
    value = document.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(400, f"{key}: an integer from {low} to {high} is needed")
    return value


def _number(document: Mapping[str, object], key: str, low: float, high: float) -> float:
    value = document.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise RequestError(400, f"{key}: a finite number from {low} to {high} is needed")
    return value


def _time(document: Mapping[str, object], key: str) -> str:
    value = document.get(key)
    try:
        if not isinstance(value, str) or len(value) > 40 or datetime.fromisoformat(_offset(value)).tzinfo is None:
            raise ValueError
    except ValueError:
        raise RequestError(400, f"{key}: a time like 2026-01-31T12:00:00Z is needed") from None
    return value


def _offset(text: str) -> str:
    """Write Z as an offset, which is all that Python 3.10 reads."""
    return text[:-1] + "+00:00" if text.endswith("Z") else text


def parse_target(document: Mapping[str, object]) -> tuple[Target, dict[str, object]]:
    """Check a target and return it, and as the document that is echoed. Raises RequestError."""
    leavers = document.get("leavers")
    if not isinstance(leavers, list) or len(leavers) > MAX_LEAVERS:
        raise RequestError(400, f"leavers: a list of at most {MAX_LEAVERS} addresses is needed")
    if not all(isinstance(a, str) and 0 < len(a) <= 255 for a in leavers):
        raise RequestError(400, "leavers: addresses of 1 to 255 characters are needed")
    close = document.get("close", False)
    if not isinstance(close, bool):
        raise RequestError(400, "close: true or false is needed")
    deadlines = {
        key: None if document.get(key) is None else _number(document, key, 1, MAX_INT)
        for key in ("progressDeadlineSeconds", "startDeadlineSeconds")
    }
    end_round = _end_round(document.get("endRound"))
    target = Target(
        generation=_integer(document, "generation", 0, MAX_INT),
        size=_integer(document, "size", 0, MAX_NODES),
        minimum=_integer(document, "min", 1, MAX_NODES),
        last_call=_number(document, "lastCallSeconds", 0, 86400),
        leavers=frozenset(leavers),
        close=close,
        end_round=end_round,
        deadline=deadlines["progressDeadlineSeconds"],
        start_deadline=deadlines["startDeadlineSeconds"],
    )
    clean: dict[str, object] = {
        "generation": target.generation,
        "size": target.size,
        "min": target.minimum,
        "lastCallSeconds": target.last_call,
        "leavers": sorted(set(leavers)),
        "close": close,
        "endRound": {"instance": end_round[0], "round": end_round[1]} if end_round else None,
        **deadlines,
    }
    return target, clean


def _end_round(value: object) -> tuple[str, int] | None:
    if value is None:
        return None
    instance = value.get("instance") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(instance, str) or not 0 < len(instance) <= 64:
        raise RequestError(400, "endRound: an instance and a round are needed")
    return instance, _integer(value, "round", 0, MAX_INT)


def parse_progress(document: Mapping[str, object], now: float) -> dict[str, object]:
    """Check what a worker says and return what is kept of it. Raises RequestError."""
    checks: dict[str, Callable[[], object]] = {
        "step": lambda: _integer(document, "step", 0, MAX_INT),
        "totalSteps": lambda: _integer(document, "totalSteps", 0, MAX_INT),
        "epoch": lambda: _integer(document, "epoch", 0, MAX_INT),
        "loss": lambda: _number(document, "loss", -sys.float_info.max, sys.float_info.max),
        "samplesPerSecond": lambda: _number(document, "samplesPerSecond", 0, sys.float_info.max),
        "worldSize": lambda: _integer(document, "worldSize", 1, MAX_INT),
        "snapshotStep": lambda: _integer(document, "snapshotStep", 0, MAX_INT),
        "snapshotTime": lambda: _time(document, "snapshotTime"),
        "beat": lambda: _integer(document, "beat", 0, MAX_INT),
        "slowRank": lambda: _integer(document, "slowRank", 0, MAX_INT),
        "slowNode": lambda: _integer(document, "slowNode", 0, MAX_NODES),
        "slowSeconds": lambda: _number(document, "slowSeconds", 0, sys.float_info.max),
        "stepSeconds": lambda: _number(document, "stepSeconds", 0, sys.float_info.max),
    }
    required = {"step", "worldSize"}
    clean = {k: check() if k in required or document.get(k) is not None else None for k, check in checks.items()}
    return {**clean, "time": _rfc3339(now)}


Request = socket.socket | tuple[bytes, socket.socket]


class Server(ThreadingHTTPServer):
    """A thread per connection, with a bound on them for all clients and for each."""

    daemon_threads = True
    request_queue_size = 128
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def __init__(self, port: int, board: Board, digest: str) -> None:
        self.board, self.digest = board, digest
        self._lock = threading.Lock()
        self._clients: Counter[str] = Counter()
        super().__init__(("", port), Handler)

    def server_bind(self) -> None:
        """Listen for IPv4 and IPv6 alike; the base class would look the host's name up, which can take long."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def verify_request(self, request: Request, client_address: tuple[str, int]) -> bool:
        """Refuse connections above the bounds."""
        client = client_address[0]
        with self._lock:
            if sum(self._clients.values()) >= MAX_CONNECTIONS or self._clients[client] >= MAX_CONNECTIONS_PER_CLIENT:
                return False
            self._clients[client] += 1
        return True

    def process_request_thread(self, request: Request, client_address: tuple[str, int]) -> None:
        """Serve a connection, and count it while it lasts."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            client = client_address[0]
            with self._lock:
                self._clients[client] -= 1
                if not self._clients[client]:
                    del self._clients[client]

    def handle_error(self, request: Request, client_address: tuple[str, int]) -> None:
        """A client that goes away in the middle is nothing to report; anything else is."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            log({"event": "request-failed", "error": repr(error)})


KEEP_ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 3),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)


class Handler(BaseHTTPRequestHandler):
    """The endpoints."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "torchrun-rendezvous", ""
    timeout = 20  # seconds without a byte, longer than clients keep idle connections
    disable_nagle_algorithm = True
    server: Server

    def setup(self) -> None:
        """Have the kernel notice within 9 s that a waiting client's machine is gone."""
        super().setup()
        for level, option, value in KEEP_ALIVE:
            self.connection.setsockopt(level, option, value)

    def do_GET(self) -> None:
        """Answer /healthz, /metrics and /v1/state."""
        self._serve({"/healthz": self._health, "/metrics": self._metrics, "/v1/state": self._state})

    def do_PUT(self) -> None:
        """Answer /v1/target."""
        self._serve({"/v1/target": self._target})

    def do_POST(self) -> None:
        """Answer /v1/progress."""
        self._serve({"/v1/progress": self._progress})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Requests are not logged: what they change is."""

    def _serve(self, routes: Mapping[str, Callable[[], None]]) -> None:
        try:
            route = routes.get(urlsplit(self.path).path)
            if route is None:
                raise RequestError(404, "no such page")
            route()
        except RequestError as error:
            self.close_connection = True  # the body may not have been read
            self._json(error.status, {"error": str(error)})

    def _health(self) -> None:
        up = self.server.board.healthy()
        self._send(200 if up else 503, "text/plain; charset=utf-8", b"ok\n" if up else b"the store is not up\n")

    def _metrics(self) -> None:
        self._send(200, "text/plain; version=0.0.4; charset=utf-8", self.server.board.metrics().encode())

    def _state(self) -> None:
        self._authenticate()
        try:
            query = parse_qs(urlsplit(self.path).query, max_num_fields=8)
            after, timeout = int(query.get("after", ["0"])[-1][:20]), float(query.get("timeout", ["0"])[-1][:20])
        except ValueError:
            raise RequestError(400, "after and timeout: numbers are needed") from None
        if not 0 <= timeout <= POLL_SECONDS:
            raise RequestError(400, f"timeout: 0 to {POLL_SECONDS:g} seconds")
        self._json(200, self.server.board.wait(after, timeout, self._connected))

    def _connected(self) -> bool:
        """Whether the client is still there: it has not closed the connection."""
        watch = select.poll()
        watch.register(self.connection, select.POLLRDHUP)
        return not watch.poll(0)

    def _target(self) -> None:
        self._authenticate()
        self._json(200, self.server.board.put(*parse_target(self._document(TARGET_BYTES))))

    def _progress(self) -> None:
        self._json(200, self.server.board.report(parse_progress(self._document(PROGRESS_BYTES), time.time())))

    def _authenticate(self) -> None:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        presented = hashlib.sha256(token.strip().encode()).hexdigest()
        if scheme.lower() != "bearer" or not hmac.compare_digest(presented, self.server.digest):
            raise RequestError(401, "the token of this job is needed")

    def _document(self, limit: int) -> dict[str, object]:
        text = self.headers.get("Content-Length", "")
        if not text.isascii() or not text.isdigit() or len(text) > 12 or "Transfer-Encoding" in self.headers:
            raise RequestError(411, "Content-Length is needed")
        if int(text) > limit:
            self.rfile.read(min(int(text), 2 * TARGET_BYTES))  # or most clients would fail to send, and see no answer
            raise RequestError(413, f"at most {limit} bytes")
        try:
            document = json.loads(self.rfile.read(int(text)))
        except (ValueError, RecursionError):
            raise RequestError(400, "the body is not JSON") from None
        if not isinstance(document, dict):
            raise RequestError(400, "the body is not a JSON object")
        return document

    def _json(self, status: int, document: Mapping[str, object]) -> None:
        self._send(status, "application/json", json.dumps(document).encode())

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


# --- process ---------------------------------------------------------------------------------------------------------


def log(event: Event) -> None:
    """Write one line of JSON to stdout."""
    sys.stdout.write(json.dumps({"time": _rfc3339(time.time()), **event}) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serve until SIGTERM, which ends the process at once: nothing here outlives it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    digest = os.environ["RDZV_TOKEN_SHA256"].lower()
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        sys.exit("RDZV_TOKEN_SHA256: 64 hexadecimal digits are needed")
    board = Board()
    driver = Driver(os.environ["RDZV_ID"], int(os.environ.get("RDZV_PORT", "29400")), board)
    server = Server(int(os.environ.get("RDZV_HTTP_PORT", "29401")), board, digest)
    log({"event": "started", "id": os.environ["RDZV_ID"], "http": server.server_address[1]})
    driver.start()
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
