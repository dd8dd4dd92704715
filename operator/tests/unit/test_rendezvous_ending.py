"""The end of a round of which some members have finished: nothing disturbs the others, and failures are detected."""

from dataclasses import replace

import pytest

from rendezvous_cases import (
    ABC,
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
    remembered,
    running,
    target,
)
from torchrun_rendezvous.protocol import RendezvousState
from torchrun_rendezvous.report import described
from torchrun_rendezvous.rounds import decide
from torchrun_rendezvous.view import KICK

ENDING = replace(SETTLED, finished=1)
LEFT = replace(running(A, B, C), first_left=(B.address,), first_left_at=NOW - 1)
BACK = replace(ENDING, participants={B: 0})
FOUND = replace(
    running(A, B, C, still=frozenset({A, C})), first_left=(B.address,), first_left_at=NOW, unfinished=(B.address,)
)
CASES = {
    "no member is back": Case(ENDING, target(3), remembered(running(A, B, C)), ENDING, running(A, B, C)),
    "all have finished": Case(
        replace(ENDING, finished=3),
        target(3),
        remembered(running(A, B, C)),
        replace(ENDING, finished=3),
        running(A, B, C),
    ),
    "a member is back: its workers have failed": Case(
        BACK,
        target(3),
        remembered(running(A, B, C)),
        BACK,
        FOUND,
        ("unfinished",),
        also={"unrequested": 1, "requested": 0, "last_unrequested": (4, (B.address,), NOW)},
    ),
    "it was back before the other one had finished": Case(
        replace(BACK, waiting=frozenset({KICK})),
        target(3),
        remembered(replace(LEFT, still=frozenset({A, C}), kicked=True)),
        BACK,
        replace(FOUND, first_left_at=NOW - 1, kicked=True),
        ("unfinished",),
        also={"unrequested": 1, "last_unrequested": (4, (B.address,), NOW - 1)},
    ),
    "one more is back: the round is counted once": Case(
        replace(BACK, participants={B: 0, C: 0}),
        target(3),
        remembered(FOUND, unrequested=1),
        replace(BACK, participants={B: 0, C: 0}),
        replace(FOUND, still=frozenset({A}), unfinished=(B.address, C.address)),
        ("unfinished",),
        also={"unrequested": 1},
    ),
    "it was told to leave, while another one finished": Case(
        replace(BACK, participants={C: 0}),
        target(3),
        remembered(KICKED),
        replace(BACK, participants={C: 0}),
        replace(KICKED, unfinished=(C.address,)),
        ("unfinished",),
        also={"unrequested": 0, "requested": 1},
    ),
    "those that have not seen the kick may finish": Case(
        replace(ENDING, waiting=frozenset({KICK})), target(3), remembered(KICKED), ENDING, KICKED
    ),
    "a fresh round: a stranger would disturb its members": Case(
        replace(FORMED, finished=1, waiting=frozenset({D}), heartbeats=beats(A, B, C, D)),
        target(3),
        remembered(running(A, B, C)),
        replace(FORMED, finished=1, heartbeats=beats(A, B, C)),
        running(A, B, C),
    ),
    "a fresh round: a member waits for the next one": Case(
        replace(FORMED, finished=1, participants={A: 0, C: 2}, waiting=frozenset({B})),
        target(3),
        remembered(running(A, B, C)),
        replace(FORMED, finished=1, participants={A: 0, C: 2}, waiting=frozenset({B})),
        FOUND,
        ("unfinished",),
        also={"unrequested": 1},
    ),
    "another node joins the next round": Case(
        replace(ENDING, participants={D: 0}),
        target(3),
        remembered(running(A, B, C)),
        replace(ENDING, participants={D: 0}),
        running(A, B, C),
    ),
    "a lost member is not back": Case(
        replace(ENDING, heartbeats=beats(A, B)),
        target(3),
        remembered(running(A, B, C)),
        replace(ENDING, heartbeats=beats(A, B)),
        running(A, B, C),
    ),
    "without a running round": Case(BACK, target(3), remembered(None), BACK),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_decision(case: Case) -> None:
    assert_decides(case)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_second_look_changes_nothing_more(case: Case) -> None:
    assert_settles(case)


def test_to_close_the_rendezvous_ends_the_wait_of_those_that_have_finished() -> None:
    first = decide(BACK, target(3, 2, close=True), NOW, remembered(FOUND))
    assert (first.view, first.release) == (replace(BACK, closed=True), 4)
    assert [line["event"] for line in first.lines] == ["closing"]
    again = decide(first.view, target(3, 2, close=True), NOW, first.memory)
    assert (again.view, again.release, again.lines) == (first.view, 4, ())
    assert decide(BACK, target(3), NOW, remembered(FOUND)).release is None


def test_the_document_names_who_is_back() -> None:
    state = described(RendezvousState("aa"), BACK, remembered(FOUND, unrequested=1), target(3))
    found = (state.complete, state.finished, state.unfinished, [member.address for member in state.members])
    assert found == (False, 1, (B.address,), [node.address for node in ABC if node is not B])
