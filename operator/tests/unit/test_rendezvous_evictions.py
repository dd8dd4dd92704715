"""Which nodes the rendezvous host evicts, and when."""

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
from torchrun_rendezvous.rounds import decide
from torchrun_rendezvous.view import KICK, View, absent

CASES = {
    "leavers never join": Case(
        open_round(A, B, C), target(2, 2, B), Memory(), formed(A, C), begun(A, C), ("evicted", "round-completed")
    ),
    "of two processes at one address, the one with the last heartbeat stays": Case(
        open_round(A, B, A._replace(pid=2), heartbeats={A: NOW - 9, B: NOW, A._replace(pid=2): NOW}),
        target(2),
        Memory(),
        formed(A._replace(pid=2), B),
        begun(A._replace(pid=2), B),
        ("evicted", "round-completed"),
    ),
    "a leaver is evicted, and the others are kicked": Case(
        FORMED,
        target(2, 2, C),
        remembered(running(A, B, C)),
        replace(
            FORMED,
            participants={A: 0, B: 1, absent(2): 2},
            heartbeats=beats(A, B, at=NOW - 10),
            waiting=frozenset({KICK}),
        ),
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
    "rank 0 is gone before all have seen its address: the host publishes it": Case(
        FORMED,
        target(2, 2, A),
        remembered(running(A, B, C)),
        replace(
            FORMED,
            participants={B: 1, C: 2, absent(0): 0},
            heartbeats=beats(B, C, at=NOW - 10),
            waiting=frozenset({KICK}),
        ),
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
    "a member that leaves by itself after the kick does so on request": Case(
        replace(FORMED, participants={C: 2}, waiting=frozenset({A, B, KICK}), heartbeats=beats(A, B, C)),
        target(2, 2, C),
        remembered(replace(running(A, B, C), kicked=True, requested=True)),
        formed(A, B),
        begun(A, B),
        ("left", "evicted", "round-ended", "round-completed"),
        also={"requested": 1, "unrequested": 0},
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
        replace(
            FORMED,
            participants={A: 0, B: 1, absent(2): 2},
            heartbeats=beats(A, B, at=NOW - 10),
            waiting=frozenset({KICK}),
        ),
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
        replace(
            FORMED,
            participants={B: 1, C: 2, absent(0): 0},
            heartbeats=beats(B, C, at=NOW - 10),
            waiting=frozenset({KICK}),
        ),
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
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_decision(case: Case) -> None:
    assert_decides(case)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_second_look_changes_nothing_more(case: Case) -> None:
    assert_settles(case)


def test_nodes_in_the_places_of_members_that_left_are_not_evicted() -> None:
    view = replace(FORMED, participants={A: 0, absent(1): 1, absent(2): 2}, waiting=frozenset({KICK}))
    memory = Memory(running=replace(running(A, B, C, still=frozenset({A})), kicked=True))
    decision = decide(view, target(3, 1), NOW, memory)
    assert [line for line in decision.lines if line["event"] == "evicted"] == []
