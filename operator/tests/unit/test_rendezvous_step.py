"""What the rendezvous host decides, as tables: the state in the store, the target and the memory, and what follows."""

import ast
from dataclasses import dataclass, field, replace

import pytest

from torchrun_operator.rendezvous.client import host_source
from torchrun_operator.rendezvous.host import (
    KICK,
    SIGHT_SECONDS,
    UNAWARE,
    Memory,
    Node,
    Running,
    Seen,
    Senses,
    Step,
    Target,
    View,
    describe,
    step,
)

A, B, C, D = (Node(f"10.0.0.{i}", 1, 0) for i in range(1, 5))
NOW = 1000.0
ABC = {A: 0, B: 1, C: 2}


def beats(*nodes: Node, at: float = NOW) -> dict[Node, float]:
    return dict.fromkeys(nodes, at)


def target(size: int, minimum: int = 2, *leavers: Node, close: bool = False) -> Target:
    return Target(1, size, minimum, 5.0, frozenset(n.address for n in leavers), close)


def running(*nodes: Node, still: frozenset[Node] | None = None, number: int = 4) -> Running:
    members = {n: rank for rank, n in enumerate(nodes)}
    return Running(number, members, frozenset(nodes) if still is None else still, beats(*nodes, at=NOW - 10))


def remembered(run: Running | None, **changes: object) -> Memory:
    return replace(Memory(running=run), **changes)  # type: ignore[arg-type]


def life(clock: float = 100.0, **silences: float) -> dict[str, object]:
    """Memory of A, B and C, all heard just now by the clock, or so many seconds ago."""
    ago = {A: silences.get("a", 0.0), B: silences.get("b", 0.0), C: silences.get("c", 0.0)}
    seen = {n: Seen(NOW, clock - seconds) for n, seconds in ago.items()}
    return {"seen": seen, "clock": clock, "looked_at": NOW, "heard_at": NOW}


def quiet(**others: Seen) -> dict[str, object]:
    """Memory of A and B, heard just now, and of C as given."""
    return {**life(), "seen": {A: Seen(NOW, 100.0), B: Seen(NOW, 100.0), C: others["C"]}}


def wired(missing: float | None = None) -> dict[str, object]:
    """Memory of A, B and C, all connected once, and C not for so many seconds."""
    seen = {A: Seen(NOW, 100.0, True), B: Seen(NOW, 100.0, True), C: Seen(NOW, 100.0, True)}
    if missing is not None:
        seen[C] = seen[C]._replace(missing=NOW - missing)
    return {**life(), "seen": seen}


def reachable(**unanswered: float) -> dict[str, object]:
    """Memory of A, B and C, all heard just now, whose machines last acknowledged something so many seconds ago."""
    ago = {A: unanswered.get("a", 0.0), B: unanswered.get("b", 0.0), C: unanswered.get("c", 0.0)}
    return {**life(), "seen": {n: Seen(NOW, 100.0, reached=100.0 - seconds) for n, seconds in ago.items()}}


ONLY_AB = Senses(peers=frozenset({A.address, B.address}))
FORMED = View(round=4, complete=True, participants=ABC, heartbeats=beats(A, B, C, at=NOW - 10))
SETTLED = View(round=5, heartbeats=beats(A, B, C))
KICKED = replace(running(A, B, C, still=frozenset({A, B})), kicked=True, requested=True)


@dataclass(frozen=True)
class Case:
    view: View
    target: Target | None
    memory: Memory
    expected: View
    running: Running | None = None
    events: tuple[str, ...] = ()
    repair: int | None = None
    hurry: bool = False
    also: dict[str, object] = field(default_factory=dict)
    senses: Senses = UNAWARE


def open_round(*nodes: Node, number: int = 5, **changes: object) -> View:
    view = View(round=number, participants=dict.fromkeys(nodes, 0), heartbeats=beats(*nodes))
    return replace(view, **changes)  # type: ignore[arg-type]


def formed(*nodes: Node, number: int = 5) -> View:
    return View(round=number, complete=True, participants={n: i for i, n in enumerate(nodes)}, heartbeats=beats(*nodes))


def begun(*nodes: Node, number: int = 5) -> Running:
    return replace(running(*nodes, number=number), beats=beats(*nodes))


CASES = {
    "without a target nothing is done": Case(open_round(A, B), None, Memory(), open_round(A, B)),
    "nobody is there": Case(View(), target(2), Memory(), View()),
    "the wanted nodes are in, in any order": Case(
        open_round(C, A, B, deadline=True),
        target(3),
        Memory(),
        formed(A, B, C),
        begun(A, B, C),
        ("round-completed",),
        also={"rounds": 1, "completed_at": NOW, "formation_seconds": 0.0},
    ),
    "ranks follow the string order of addresses, as torchrun sorts": Case(
        open_round(Node("10.0.0.9", 1, 0), Node("10.0.0.10", 1, 0)),
        target(2),
        Memory(),
        formed(Node("10.0.0.10", 1, 0), Node("10.0.0.9", 1, 0)),
        begun(Node("10.0.0.10", 1, 0), Node("10.0.0.9", 1, 0)),
        ("round-completed",),
    ),
    "enough nodes are in: the last call begins": Case(
        open_round(A, B, deadline=True),
        target(3),
        Memory(),
        open_round(A, B),
        also={"enough_since": NOW, "forming_since": NOW},
    ),
    "the last call is not over": Case(
        open_round(A, B), target(3), Memory(enough_since=NOW - 4.9), open_round(A, B), also={"enough_since": NOW - 4.9}
    ),
    "the last call is over": Case(
        open_round(A, B),
        target(3),
        Memory(enough_since=NOW - 5, forming_since=NOW - 6),
        formed(A, B),
        begun(A, B),
        ("round-completed",),
        also={"enough_since": None, "formation_seconds": 6.0},
    ),
    "fewer than the minimum wait for ever, and the last call begins anew": Case(
        open_round(A), target(3), Memory(enough_since=NOW - 99), open_round(A), also={"enough_since": None}
    ),
    "a size below the minimum completes nothing": Case(
        open_round(A, B, C), target(1, 2), Memory(enough_since=NOW - 99), open_round(A, B, C)
    ),
    "surplus nodes are left out, and must soon be out of sight": Case(
        open_round(A, B, C),
        target(2),
        Memory(),
        formed(A, B),
        begun(A, B),
        ("round-completed",),
        hurry=True,
        also={"aside": {C.address: NOW}},
    ),
    "who was in the round before comes before a spare, whatever the order of their addresses": Case(
        open_round(A, B, C),
        target(2),
        Memory(former=frozenset({B.address, C.address, D.address})),
        formed(B, C),
        begun(B, C),
        ("round-completed",),
        also={"aside": {A.address: NOW}},
    ),
    "a spare takes the place of who is lost": Case(
        open_round(A, B),
        target(2),
        Memory(former=frozenset({B.address, C.address})),
        formed(A, B),
        begun(A, B),
        ("round-completed",),
    ),
    "those in other lists join at once": Case(
        open_round(A, waiting=frozenset({B, KICK}), redundant=frozenset({C}), heartbeats=beats(A, B, C)),
        target(4),
        Memory(),
        open_round(A, B, C),
    ),
    "a participant without a heartbeat would break its agent": Case(
        open_round(A, B, C, heartbeats=beats(A, B)), target(3), Memory(), open_round(A, B)
    ),
    "leavers never join": Case(
        open_round(A, B, C), target(2, 2, B), Memory(), formed(A, C), begun(A, C), ("evicted", "round-completed")
    ),
    "of two processes at one address the one heard of last stays": Case(
        open_round(A, B, A._replace(pid=2), heartbeats={A: NOW - 9, B: NOW, A._replace(pid=2): NOW}),
        target(2),
        Memory(),
        formed(A._replace(pid=2), B),
        begun(A._replace(pid=2), B),
        ("evicted", "round-completed"),
    ),
    "a round runs": Case(FORMED, target(3), remembered(running(A, B, C)), FORMED, running(A, B, C)),
    "a round larger than wanted runs on until the operator names leavers": Case(
        FORMED, target(2), remembered(running(A, B, C)), FORMED, running(A, B, C)
    ),
    "a round that agents completed is taken over": Case(
        formed(A, B), target(2), Memory(), formed(A, B), begun(A, B), ("round-found",)
    ),
    "all members have seen the round: the next one opens behind it": Case(
        replace(FORMED, heartbeats=beats(A, B, C)),
        target(3),
        remembered(running(A, B, C)),
        SETTLED,
        running(A, B, C),
        ("round-settled",),
    ),
    "one has not": Case(
        replace(FORMED, heartbeats={**beats(A, B), C: NOW - 10}),
        target(3),
        remembered(running(A, B, C)),
        replace(FORMED, heartbeats={**beats(A, B), C: NOW - 10}),
        running(A, B, C),
    ),
    "a leaver is evicted and the others kicked": Case(
        FORMED,
        target(2, 2, C),
        remembered(running(A, B, C)),
        replace(FORMED, participants={A: 0, B: 1}, heartbeats=beats(A, B, at=NOW - 10), waiting=frozenset({KICK})),
        KICKED,
        ("evicted", "round-kicked"),
        also={"evictions": {"not wanted": 1}},
    ),
    "a leaver is evicted from a settled round": Case(
        SETTLED,
        target(2, 2, C),
        remembered(running(A, B, C)),
        replace(SETTLED, heartbeats=beats(A, B), waiting=frozenset({KICK})),
        KICKED,
        ("evicted", "round-kicked"),
    ),
    "rank 0 is gone before all have seen its address: it is published for it": Case(
        FORMED,
        target(2, 2, A),
        remembered(running(A, B, C)),
        replace(FORMED, participants={B: 1, C: 2}, heartbeats=beats(B, C, at=NOW - 10), waiting=frozenset({KICK})),
        replace(running(A, B, C, still=frozenset({B, C})), kicked=True, requested=True, repaired=True),
        ("evicted", "round-kicked"),
        repair=4,
    ),
    "the last participant is evicted": Case(
        replace(FORMED, participants={A: 0}, heartbeats=beats(A)),
        target(2, 2, A),
        remembered(running(A)),
        View(round=5),
        None,
        ("evicted", "round-ended"),
        also={"requested": 1, "forming_since": NOW, "former": frozenset({A.address})},
    ),
    "a member left by itself: the others are kicked": Case(
        replace(SETTLED, participants={B: 0}),
        target(3),
        remembered(running(A, B, C)),
        replace(SETTLED, participants={B: 0}, waiting=frozenset({KICK})),
        replace(running(A, B, C, still=frozenset({A, C})), kicked=True, first_left=(B.address,), first_left_at=NOW),
        ("left", "round-kicked"),
    ),
    "a member left by itself, and torchrun's own rule restarts the others": Case(
        replace(FORMED, participants={A: 0, C: 2}, waiting=frozenset({B})),
        target(3),
        remembered(running(A, B, C)),
        replace(FORMED, participants={A: 0, C: 2}, waiting=frozenset({B, KICK})),
        replace(running(A, B, C, still=frozenset({A, C})), kicked=True, first_left=(B.address,), first_left_at=NOW),
        ("left", "round-kicked"),
    ),
    "all have left because workers failed": Case(
        open_round(A, B, C),
        target(4),
        remembered(replace(running(A, B, C, still=frozenset({C})), first_left=(B.address,), first_left_at=NOW - 1)),
        open_round(A, B, C),
        None,
        ("left", "round-ended"),
        also={"requested": 0, "unrequested": 1, "last_unrequested": (4, (B.address,), NOW - 1)},
    ),
    "a member that leaves by itself after the kick does so on request": Case(
        replace(FORMED, participants={C: 2}, waiting=frozenset({A, B, KICK}), heartbeats=beats(A, B, C)),
        target(2, 2, C),
        remembered(replace(running(A, B, C), kicked=True, requested=True)),
        formed(A, B),
        begun(A, B),
        ("left", "evicted", "round-ended", "round-completed"),
        also={"requested": 1, "unrequested": 0},
    ),
    "a member's connection has been gone for a second: its agent has ended": Case(
        SETTLED,
        target(3),
        remembered(running(A, B, C), **wired(missing=1.0)),
        replace(SETTLED, heartbeats=beats(A, B), waiting=frozenset({KICK})),
        KICKED,
        ("evicted", "round-kicked"),
        also={"evictions": {"disconnected": 1}},
        senses=ONLY_AB,
    ),
    "for a shorter time it may only not have been listed": Case(
        SETTLED,
        target(3),
        remembered(running(A, B, C), **wired(missing=0.9)),
        SETTLED,
        running(A, B, C),
        senses=ONLY_AB,
    ),
    "it begins to be missing": Case(
        SETTLED,
        target(3),
        remembered(running(A, B, C), **wired()),
        SETTLED,
        running(A, B, C),
        also={"seen": wired(missing=0.0)["seen"]},
        senses=ONLY_AB,
    ),
    "it is there again": Case(
        SETTLED,
        target(3),
        remembered(running(A, B, C), **wired(missing=0.9)),
        SETTLED,
        running(A, B, C),
        also={"seen": wired()["seen"]},
        senses=Senses(peers=frozenset({A.address, B.address, C.address})),
    ),
    "nodes that were never seen connected have other addresses on the way, so that says nothing": Case(
        SETTLED,
        target(3),
        remembered(running(A, B, C), **life()),
        SETTLED,
        running(A, B, C),
        also={"seen": life()["seen"]},
        senses=Senses(peers=frozenset()),
    ),
    "a node that waits for a round has ended": Case(
        open_round(A, B, C),
        target(4),
        Memory(**wired(missing=1.0)),  # type: ignore[arg-type]
        open_round(A, B),
        events=("evicted",),
        senses=ONLY_AB,
    ),
    "a member is silent: the others go on without it, and listen whether it comes back": Case(
        SETTLED,
        target(3),
        remembered(running(A, B, C), **life(c=8.0)),
        replace(SETTLED, waiting=frozenset({KICK})),
        KICKED,
        ("evicted", "round-kicked"),
        also={"evictions": {"silent": 1}, "requested": 0},
    ),
    "not silent for long enough": Case(
        SETTLED,
        target(3),
        remembered(running(A, B, C), **life(c=7.9)),
        SETTLED,
        running(A, B, C),
        also={"clock": 100.0},
    ),
    "a member's machine has acknowledged nothing for four seconds: it is off, or cut off": Case(
        SETTLED,
        target(3),
        remembered(running(A, B, C), **reachable(c=4.0)),
        replace(SETTLED, waiting=frozenset({KICK})),
        KICKED,
        ("evicted", "round-kicked"),
        also={"evictions": {"silent": 1}},
    ),
    "for a shorter time packets may have been lost": Case(
        SETTLED,
        target(3),
        remembered(running(A, B, C), **reachable(c=3.9)),
        SETTLED,
        running(A, B, C),
        senses=Senses(unanswered={A.address: 0.25, B.address: 1.25, C.address: 1.5}),
        also={"seen": reachable(c=3.9)["seen"]},
    ),
    "it acknowledges something": Case(
        SETTLED,
        target(3),
        remembered(running(A, B, C), **reachable(c=3.9)),
        SETTLED,
        running(A, B, C),
        senses=Senses(unanswered={C.address: 0.5}),
        also={"seen": reachable(c=0.5)["seen"]},
    ),
    "nothing from most of the machines: it is rather the host's own network": Case(
        SETTLED,
        target(3),
        remembered(running(A, B, C), **reachable(b=10.0, c=10.0)),
        SETTLED,
        running(A, B, C),
        also={"evictions": {}},
    ),
    "a machine is judged from when it was first seen connected": Case(
        SETTLED,
        target(3),
        remembered(running(A, B, C), **life()),
        SETTLED,
        running(A, B, C),
        senses=Senses(unanswered={A.address: 0.0, B.address: 0.0, C.address: 30.0}),
        also={"seen": reachable()["seen"]},
    ),
    "time goes on while somebody is heard": Case(
        SETTLED,
        target(3),
        remembered(running(A, B, C), **{**life(c=7.75), "looked_at": NOW - 0.25, "heard_at": NOW - 4.75}),
        replace(SETTLED, waiting=frozenset({KICK})),
        KICKED,
        ("evicted", "round-kicked"),
        also={"clock": 100.25},
    ),
    "and stands still while nobody is: then it is the host that is cut off": Case(
        SETTLED,
        target(3),
        remembered(running(A, B, C), **{**life(c=7.9), "looked_at": NOW - 0.1, "heard_at": NOW - 5.0}),
        SETTLED,
        running(A, B, C),
        also={"clock": 100.0},
    ),
    "the first that is heard again gives the others time": Case(
        SETTLED,
        target(3),
        remembered(
            running(A, B, C),
            clock=100.0,
            looked_at=NOW - 0.1,
            heard_at=NOW - 20,
            seen={A: Seen(NOW - 20, 95.0), B: Seen(NOW, 95.0), C: Seen(NOW, 92.0)},
        ),
        SETTLED,
        running(A, B, C),
        also={"seen": {A: Seen(NOW, 100.0, at=NOW), B: Seen(NOW, 100.0), C: Seen(NOW, 100.0)}},
    ),
    "a stall of the host is no silence of the nodes": Case(
        SETTLED,
        target(3),
        remembered(running(A, B, C), **{**life(c=7.4), "looked_at": NOW - 4.8, "heard_at": NOW - 4.9}),
        SETTLED,
        running(A, B, C),
        also={"clock": 100.5},
    ),
    "a clock that is set back does not matter": Case(
        SETTLED,
        target(3),
        remembered(running(A, B, C), **{**life(c=7.9), "looked_at": NOW + 3600, "heard_at": NOW + 3600}),
        SETTLED,
        running(A, B, C),
        also={"clock": 100.0},
    ),
    "an old heartbeat of a node that may live is renewed, in the node's time, before agents drop it": Case(
        replace(SETTLED, heartbeats={**beats(A, B), C: 500.0}),
        target(3),
        remembered(running(A, B, C), **quiet(C=Seen(500.0, 95.0, at=NOW - 4.5))),
        replace(SETTLED, heartbeats={**beats(A, B), C: 502.5}),
        running(A, B, C),
        also={"seen": quiet(C=Seen(502.5, 95.0, at=NOW - 2))["seen"]},
    ),
    "that does not say that a member has seen the fresh round": Case(
        replace(FORMED, heartbeats={**beats(A, B), C: 500.0}),
        target(3),
        remembered(
            replace(running(A, B, C), beats={**beats(A, B, at=NOW - 10), C: 500.0}),
            **quiet(C=Seen(500.0, 95.0, at=NOW - 4.5)),
        ),
        replace(FORMED, heartbeats={**beats(A, B), C: 502.5}),
        replace(running(A, B, C), beats={**beats(A, B, at=NOW - 10), C: 502.5}),
    ),
    "agents dropped a member of a settled round: it did not leave": Case(
        replace(SETTLED, heartbeats=beats(A, B)),
        target(3),
        remembered(running(A, B, C), **quiet(C=Seen(500.0, 95.0, at=NOW - 4.5))),
        replace(SETTLED, heartbeats={**beats(A, B), C: 502.5}),
        running(A, B, C),
    ),
    "old torch sends a heartbeat every 5 s": Case(
        SETTLED,
        target(3),
        remembered(running(A, B, C), **life(c=19.0)),
        SETTLED,
        running(A, B, C),
        senses=Senses(interval=5.0),
    ),
    "most are silent: it is rather the host that does not hear": Case(
        SETTLED, target(3), remembered(running(A, B, C), **life(b=8.0, c=29.9)), SETTLED, running(A, B, C)
    ),
    "who was given up before is not one of them": Case(
        SETTLED,
        target(3),
        remembered(running(A, B), **life(b=8.0, c=60.0), evicted=frozenset({C})),
        replace(SETTLED, waiting=frozenset({KICK})),
        replace(running(A, B, still=frozenset({A})), kicked=True, requested=True),
        ("evicted", "round-kicked"),
    ),
    "but not for ever": Case(
        SETTLED,
        target(3),
        remembered(running(A, B, C), **life(b=30.0, c=30.0)),
        replace(SETTLED, waiting=frozenset({KICK})),
        replace(running(A, B, C, still=frozenset({A})), kicked=True, requested=True),
        ("evicted", "round-kicked"),
    ),
    "who has been silent for two minutes has ended": Case(
        replace(SETTLED, participants={A: 0, B: 0}),
        target(3, 3),
        Memory(**life(c=120.0)),  # type: ignore[arg-type]
        open_round(A, B),
        events=("evicted",),
    ),
    "members that wait for rank 0's address are silent by nature": Case(
        FORMED,
        target(3),
        remembered(
            replace(running(A, B, C), unpublished=9.0),
            **{**life(a=12.0, b=12.0, c=12.0), "looked_at": NOW - 0.5},
        ),
        FORMED,
        replace(running(A, B, C), unpublished=9.5),
        senses=Senses(published=False),
    ),
    "rank 0 does not say where it is": Case(
        FORMED,
        target(3),
        remembered(
            replace(running(A, B, C), unpublished=9.5),
            **{**life(a=12.0, b=12.0, c=12.0), "looked_at": NOW - 0.5},
        ),
        replace(FORMED, participants={B: 1, C: 2}, waiting=frozenset({KICK})),
        replace(running(A, B, C, still=frozenset({B, C})), kicked=True, requested=True, unpublished=10.0),
        ("evicted", "round-kicked"),
        repair=4,
        senses=Senses(published=False),
    ),
    "a machine is lost while members wait for rank 0's address": Case(
        FORMED,
        target(3),
        remembered(replace(running(A, B, C), unpublished=1.0), **{**reachable(c=4.0), "looked_at": NOW - 0.5}),
        replace(FORMED, participants={A: 0, B: 1}, waiting=frozenset({KICK})),
        replace(KICKED, unpublished=1.5),
        ("evicted", "round-kicked"),
        senses=Senses(published=False),
    ),
    "a node is heard again while the others meet without it: it is to leave its workers": Case(
        replace(SETTLED, participants={A: 0}, heartbeats=beats(A, B, C)),
        target(3, 3),
        Memory(**life(b=30.0)),  # type: ignore[arg-type]
        replace(SETTLED, participants={A: 0}, heartbeats=beats(A, B, C), waiting=frozenset({KICK})),
        events=("evicted",),
    ),
    "it is wanted in the round that runs": Case(
        replace(SETTLED, heartbeats=beats(A, B, C)),
        target(3),
        remembered(running(A, B), **life()),
        replace(SETTLED, heartbeats=beats(A, B, C), waiting=frozenset({KICK})),
        replace(running(A, B), kicked=True, requested=True),
        ("round-kicked",),
    ),
    "not as long as that is fresh": Case(
        replace(FORMED, participants={A: 0, B: 1}, heartbeats={**beats(A, B, at=NOW - 10), C: NOW}),
        target(3),
        remembered(running(A, B), **life()),
        replace(FORMED, participants={A: 0, B: 1}, heartbeats={**beats(A, B, at=NOW - 10), C: NOW}),
        running(A, B),
    ),
    "it is not wanted": Case(
        replace(SETTLED, heartbeats=beats(A, B, C)),
        target(2),
        remembered(running(A, B), **life()),
        replace(SETTLED, heartbeats=beats(A, B, C)),
        running(A, B),
    ),
    "without an operator nobody is on the way: the last call is short": Case(
        open_round(A, B),
        target(3),
        Memory(enough_since=NOW - 1, rounds=1),
        formed(A, B),
        begun(A, B),
        ("round-completed",),
        also={"rounds_alone": 1},
        senses=Senses(away=True),
    ),
    "except for the first round, whose nodes an operator has made": Case(
        open_round(A, B), target(3), Memory(enough_since=NOW - 4.9), open_round(A, B), senses=Senses(away=True)
    ),
    "never below the minimum": Case(
        open_round(A, B),
        target(4, 3),
        Memory(enough_since=NOW - 99, rounds=1),
        open_round(A, B),
        senses=Senses(away=True),
    ),
    "the agent of a member came back as another process": Case(
        replace(
            FORMED,
            waiting=frozenset({B._replace(pid=2)}),
            heartbeats=beats(A, C) | {B: NOW - 9, B._replace(pid=2): NOW},
        ),
        target(3),
        remembered(running(A, B, C)),
        replace(
            FORMED,
            participants={A: 0, C: 2},
            waiting=frozenset({B._replace(pid=2), KICK}),
            heartbeats=beats(A, C, B._replace(pid=2)),
        ),
        replace(running(A, B, C, still=frozenset({A, C})), kicked=True, first_left=(B.address,), first_left_at=NOW),
        ("evicted", "round-kicked"),
    ),
    "a leaver stays while members look at a round that has just completed: they must all see the same": Case(
        FORMED,
        target(2, 2, C),
        remembered(running(A, B, C), completed_at=NOW - 1),
        FORMED,
        replace(running(A, B, C), requested=True),
        also={"evictions": {}},
    ),
    "even if it is rank 0, whose address is published soon after": Case(
        FORMED,
        target(2, 2, A),
        remembered(running(A, B, C), completed_at=NOW - 1),
        FORMED,
        replace(running(A, B, C), requested=True),
    ),
    "a leaver that leaves by itself meanwhile does so on request": Case(
        replace(FORMED, participants={A: 0, B: 1}, heartbeats=beats(A, B, at=NOW - 10)),
        target(2, 2, C),
        remembered(replace(running(A, B, C), requested=True), completed_at=NOW - 1),
        replace(FORMED, participants={A: 0, B: 1}, heartbeats=beats(A, B, at=NOW - 10), waiting=frozenset({KICK})),
        KICKED,
        ("left", "round-kicked"),
    ),
    "a leaver goes at once if all others have seen the round": Case(
        replace(FORMED, heartbeats=beats(A, B) | {C: NOW - 10}),
        target(2, 2, C),
        remembered(running(A, B, C), completed_at=NOW - 1),
        replace(FORMED, participants={A: 0, B: 1}, heartbeats=beats(A, B), waiting=frozenset({KICK})),
        KICKED,
        ("evicted", "round-kicked"),
    ),
    "or after the time in which they look": Case(
        FORMED,
        target(2, 2, A),
        remembered(running(A, B, C), completed_at=NOW - 1.5),
        replace(FORMED, participants={B: 1, C: 2}, heartbeats=beats(B, C, at=NOW - 10), waiting=frozenset({KICK})),
        replace(running(A, B, C, still=frozenset({B, C})), kicked=True, requested=True, repaired=True),
        ("evicted", "round-kicked"),
        repair=4,
    ),
    "so does a process that was replaced, and its successor is set aside": Case(
        replace(
            FORMED,
            waiting=frozenset({B._replace(pid=2)}),
            heartbeats=beats(A, B, C, at=NOW - 10) | {B._replace(pid=2): NOW},
        ),
        target(3),
        remembered(running(A, B, C), completed_at=NOW - 1),
        FORMED,
        replace(running(A, B, C), first_left=(B.address,), first_left_at=NOW, disturbed_at=NOW),
        hurry=True,
        also={"evictions": {}, "aside": {B.address: NOW}},
    ),
    "a wanted node joins a fresh round, whose members see it anyway": Case(
        replace(FORMED, waiting=frozenset({D}), heartbeats=beats(A, B, C, D)),
        target(4),
        remembered(running(A, B, C)),
        replace(FORMED, waiting=frozenset({D, KICK}), heartbeats=beats(A, B, C, D)),
        replace(running(A, B, C), kicked=True, requested=True),
        ("round-kicked",),
    ),
    "the last wanted node joins a settled round": Case(
        replace(SETTLED, participants={D: 0}, heartbeats=beats(A, B, C, D)),
        target(4),
        remembered(running(A, B, C)),
        replace(SETTLED, participants={D: 0}, heartbeats=beats(A, B, C, D), waiting=frozenset({KICK})),
        replace(running(A, B, C), kicked=True, requested=True),
        ("round-kicked",),
    ),
    "training goes on while more nodes are on their way": Case(
        replace(SETTLED, participants={D: 0}, heartbeats=beats(A, B, C, D)),
        target(5),
        remembered(running(A, B, C)),
        replace(SETTLED, participants={D: 0}, heartbeats=beats(A, B, C, D)),
        running(A, B, C),
        also={"growth_since": NOW},
    ),
    "for no longer than the last call": Case(
        replace(SETTLED, participants={D: 0}, heartbeats=beats(A, B, C, D)),
        target(5),
        remembered(running(A, B, C), growth_since=NOW - 5),
        replace(SETTLED, participants={D: 0}, heartbeats=beats(A, B, C, D), waiting=frozenset({KICK})),
        replace(running(A, B, C), kicked=True, requested=True),
        ("round-kicked",),
    ),
    "a node that is not wanted is set aside while the round is fresh": Case(
        replace(FORMED, waiting=frozenset({D}), heartbeats=beats(A, B, C, D, at=NOW - 10)),
        target(3),
        remembered(running(A, B, C)),
        FORMED,
        replace(running(A, B, C), disturbed_at=NOW),
        hurry=True,
        also={"aside": {D.address: NOW}},
    ),
    "and waits unseen once the next round is open": Case(
        replace(SETTLED, participants={D: 0}, heartbeats=beats(A, B, C, D)),
        target(3),
        remembered(running(A, B, C)),
        replace(SETTLED, participants={D: 0}, heartbeats=beats(A, B, C, D)),
        running(A, B, C),
    ),
    "who left because it saw a stranger was disturbed": Case(
        replace(FORMED, participants={A: 0, B: 1}, waiting=frozenset({C}), heartbeats=beats(A, B, C)),
        target(3),
        remembered(replace(running(A, B, C), disturbed_at=NOW - 1)),
        replace(FORMED, participants={A: 0, B: 1}, waiting=frozenset({C, KICK}), heartbeats=beats(A, B, C)),
        replace(running(A, B, C, still=frozenset({A, B})), kicked=True, requested=True, disturbed_at=NOW - 1),
        ("left", "round-kicked"),
    ),
    "a settled round that was kicked does not complete again before all have left it": Case(
        replace(SETTLED, participants={A: 0, D: 0}, heartbeats=beats(A, B, D), waiting=frozenset({KICK})),
        target(2, 2, C),
        remembered(KICKED),
        replace(SETTLED, participants={A: 0, D: 0}, heartbeats=beats(A, B, D), waiting=frozenset({KICK})),
        replace(KICKED, still=frozenset({B})),
        ("left",),
        repair=4,
    ),
    "an agent has finished: nobody is disturbed any more": Case(
        replace(FORMED, finished=1),
        target(2, 2, C),
        remembered(running(A, B, C)),
        replace(FORMED, finished=1),
        running(A, B, C),
    ),
    "agents that have succeeded closed the rendezvous": Case(
        replace(FORMED, closed=True, finished=1),
        target(2, 2, C),
        remembered(running(A, B, C)),
        replace(FORMED, closed=True, finished=1),
        running(A, B, C),
    ),
    "an agent that failed closed it for everybody: that is undone": Case(
        replace(SETTLED, closed=True),
        target(3),
        remembered(running(A, B, C)),
        SETTLED,
        running(A, B, C),
        ("reopened",),
        also={"reopened": 1},
    ),
    "without a target it stays closed": Case(
        replace(SETTLED, closed=True), None, Memory(), replace(SETTLED, closed=True)
    ),
    "it is to end though nobody left": Case(
        SETTLED,
        replace(target(3), end_round=("aa", 4)),
        remembered(running(A, B, C)),
        replace(SETTLED, waiting=frozenset({KICK})),
        replace(running(A, B, C), kicked=True, requested=True),
        ("round-kicked",),
    ),
    "a round before it was to end": Case(
        SETTLED, replace(target(3), end_round=("aa", 3)), remembered(running(A, B, C)), SETTLED, running(A, B, C)
    ),
    "it is to be closed": Case(
        SETTLED,
        target(3, 2, close=True),
        remembered(running(A, B, C)),
        replace(SETTLED, closed=True, waiting=frozenset({KICK})),
        replace(running(A, B, C), kicked=True, requested=True),
        ("closing",),
    ),
}


@pytest.mark.parametrize(
    ("ago", "view", "expected"), [(1.0, FORMED, True), (3.0, FORMED, False), (1.0, SETTLED, False)]
)
def test_the_host_hurries_while_a_round_is_fresh(ago: float, view: View, expected: bool) -> None:
    memory = remembered(running(A, B, C), completed_at=NOW - ago)
    assert step(view, target(3), NOW, memory).hurry is expected


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_step(case: Case) -> None:
    result = step(case.view, case.target, NOW, case.memory, case.senses)
    expected_running = case.running
    if expected_running is not None and case.repair is not None:
        expected_running = replace(expected_running, repaired=True)
    assert (result.view, result.memory.running) == (case.expected, expected_running)
    assert tuple(e["event"] for e in result.events) == case.events
    # Whoever comes while the members of a new round have yet to see it must be out of sight at once.
    completed = result.memory.completed_at
    hurry = result.view.complete and completed is not None and NOW - completed < 2 * SIGHT_SECONDS
    assert (result.repair, result.hurry) == (case.repair, case.hurry or hurry)
    assert {name: getattr(result.memory, name) for name in case.also} == case.also


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_second_look_changes_nothing_more(case: Case) -> None:
    first = step(case.view, case.target, NOW, case.memory, case.senses)
    second = step(first.view, case.target, NOW, first.memory, case.senses)
    assert second == Step(first.view, second.memory, (), None, first.hurry)
    third = step(second.view, case.target, NOW, second.memory, case.senses)
    assert third == second


def test_the_document_of_a_round_that_ends() -> None:
    view = replace(SETTLED, participants={B: 0, D: 0}, heartbeats=beats(A, B, C, D), waiting=frozenset({KICK}))
    memory = Memory(
        running=replace(running(A, B, C, still=frozenset({A, C})), kicked=True),
        aside={"10.0.0.9": NOW},
        requested=3,
        unrequested=2,
        last_unrequested=(2, (C.address,), 1.5),
        completed_at=0.25,
    )
    assert describe(view, memory, target(4, 2, D)) == {
        "round": 4,
        "complete": False,
        "closed": False,
        "finished": 0,
        "members": [{"address": A.address, "rank": 0}, {"address": C.address, "rank": 2}],
        "waiting": [B.address, "10.0.0.9"],
        "silent": [],
        "missing": [],
        "roundsEnded": {"requested": 3, "unrequested": 2},
        "lastUnrequested": {"round": 2, "addresses": [C.address], "time": "1970-01-01T00:00:01.500Z"},
        "completedAt": "1970-01-01T00:00:00.250Z",
    }


def test_the_program_runs_on_the_oldest_python_that_images_have() -> None:
    ast.parse(host_source(), feature_version=(3, 10))
