"""How the rendezvous host completes a round."""

import pytest

from rendezvous_cases import (
    NOW,
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
    target,
)
from torchrun_rendezvous.memory import Memory, Senses
from torchrun_rendezvous.view import KICK, Node, View

CASES = {
    "without a target nothing is done": Case(open_round(A, B), None, Memory(), open_round(A, B)),
    "no node is there": Case(View(), target(2), Memory(), View()),
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
    "fewer than the minimum wait forever, and the last call starts again": Case(
        open_round(A), target(3), Memory(enough_since=NOW - 99), open_round(A), also={"enough_since": None}
    ),
    "a size below the minimum completes nothing": Case(
        open_round(A, B, C), target(1, 2), Memory(enough_since=NOW - 99), open_round(A, B, C)
    ),
    "surplus nodes are left out, and soon hidden": Case(
        open_round(A, B, C),
        target(2),
        Memory(),
        formed(A, B),
        begun(A, B),
        ("round-completed",),
        hurry=True,
        also={"aside": {C.address: NOW}},
    ),
    "former members come before spares, in any order of addresses": Case(
        open_round(A, B, C),
        target(2),
        Memory(former=frozenset({B.address, C.address, D.address})),
        formed(B, C),
        begun(B, C),
        ("round-completed",),
        also={"aside": {A.address: NOW}},
    ),
    "a spare takes the place of a lost node": Case(
        open_round(A, B),
        target(2),
        Memory(former=frozenset({B.address, C.address})),
        formed(A, B),
        begun(A, B),
        ("round-completed",),
    ),
    "nodes in other lists join at once": Case(
        open_round(A, waiting=frozenset({B, KICK}), redundant=frozenset({C}), heartbeats=beats(A, B, C)),
        target(4),
        Memory(),
        open_round(A, B, C),
    ),
    "a participant without a heartbeat would break its agent": Case(
        open_round(A, B, C, heartbeats=beats(A, B)), target(3), Memory(), open_round(A, B)
    ),
    "without an operator no node is starting: the last call is short": Case(
        open_round(A, B),
        target(3),
        Memory(enough_since=NOW - 1, rounds=1),
        formed(A, B),
        begun(A, B),
        ("round-completed",),
        also={"rounds_alone": 1},
        senses=Senses(away=True),
    ),
    "except for the first round, whose nodes the operator has created": Case(
        open_round(A, B), target(3), Memory(enough_since=NOW - 4.9), open_round(A, B), senses=Senses(away=True)
    ),
    "never below the minimum": Case(
        open_round(A, B),
        target(4, 3),
        Memory(enough_since=NOW - 99, rounds=1),
        open_round(A, B),
        senses=Senses(away=True),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_decision(case: Case) -> None:
    assert_decides(case)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_second_look_changes_nothing_more(case: Case) -> None:
    assert_settles(case)
