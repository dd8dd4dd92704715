"""How a round runs, grows and ends."""

from dataclasses import replace

import pytest

from rendezvous_cases import (
    FORMED,
    KICKED,
    NOW,
    SETTLED,
    A,
    B,
    C,
    Case,
    D,
    assert_decides,
    assert_settles,
    beats,
    begun,
    formed,
    open_round,
    remembered,
    running,
    target,
)
from torchrun_rendezvous.memory import Memory
from torchrun_rendezvous.protocol import EndRound, RendezvousState
from torchrun_rendezvous.report import described
from torchrun_rendezvous.rounds import decide
from torchrun_rendezvous.view import KICK, View, absent

CASES = {
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
    "a member left by itself: the others are kicked": Case(
        replace(SETTLED, participants={B: 0}),
        target(3),
        remembered(running(A, B, C)),
        replace(SETTLED, participants={B: 0}, waiting=frozenset({KICK})),
        replace(running(A, B, C, still=frozenset({A, C})), kicked=True, first_left=(B.address,), first_left_at=NOW),
        ("left", "round-kicked"),
    ),
    "a member left by itself, and torchrun's own rule restarts the others": Case(
        replace(FORMED, participants={A: 0, C: 2}, waiting=frozenset({B}), heartbeats=beats(A, B, C)),
        target(3),
        remembered(running(A, B, C)),
        replace(FORMED, participants={A: 0, C: 2}, waiting=frozenset({B, KICK}), heartbeats=beats(A, B, C)),
        replace(running(A, B, C, still=frozenset({A, C})), kicked=True, first_left=(B.address,), first_left_at=NOW),
        ("left", "round-kicked"),
    ),
    "a member left before all others have seen the round: they still see its size": Case(
        replace(FORMED, participants={A: 0, C: 2}, heartbeats={A: NOW, C: NOW - 10}),
        target(3),
        remembered(running(A, B, C)),
        replace(
            FORMED,
            participants={A: 0, C: 2, absent(1): 1},
            heartbeats={A: NOW, C: NOW - 10},
            waiting=frozenset({KICK}),
        ),
        replace(running(A, B, C, still=frozenset({A, C})), kicked=True, first_left=(B.address,), first_left_at=NOW),
        ("left", "round-kicked"),
    ),
    "the last one left too: the next round is open, and has none of them": Case(
        replace(FORMED, participants={absent(1): 1}, heartbeats=beats(A), waiting=frozenset({A, KICK})),
        target(3),
        remembered(replace(running(A, B, still=frozenset({A})), kicked=True, requested=True)),
        open_round(A),
        None,
        ("left", "round-ended"),
        also={"requested": 1, "unrequested": 0},
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
    "training continues while more nodes are starting": Case(
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
    "a member left because it saw an unknown node: it was disturbed": Case(
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
    "an agent has finished: the host disturbs no member": Case(
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
    "an agent that failed closed the rendezvous: the host opens it again": Case(
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
    "it must end although no member left": Case(
        SETTLED,
        replace(target(3), end_round=EndRound("aa", 4)),
        remembered(running(A, B, C)),
        replace(SETTLED, waiting=frozenset({KICK})),
        replace(running(A, B, C), kicked=True, requested=True),
        ("round-kicked",),
    ),
    "an earlier round was to end": Case(
        SETTLED,
        replace(target(3), end_round=EndRound("aa", 3)),
        remembered(running(A, B, C)),
        SETTLED,
        running(A, B, C),
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


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_decision(case: Case) -> None:
    assert_decides(case)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_second_look_changes_nothing_more(case: Case) -> None:
    assert_settles(case)


@pytest.mark.parametrize(
    ("ago", "view", "expected"), [(1.0, FORMED, True), (3.0, FORMED, False), (1.0, SETTLED, False)]
)
def test_the_host_hurries_while_a_round_is_fresh(ago: float, view: View, expected: bool) -> None:
    memory = remembered(running(A, B, C), completed_at=NOW - ago)
    assert decide(view, target(3), NOW, memory).hurry is expected


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
    state = described(RendezvousState("aa"), view, memory, target(4, 2, D)).document()
    expected = {
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
    assert {key: state[key] for key in expected} == expected
