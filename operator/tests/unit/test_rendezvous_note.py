"""What a rendezvous host writes for its successor, and what that one remembers of it."""

import base64
import json
import math
import zlib
from dataclasses import replace

import pytest

from rendezvous_cases import ABC, FORMED, NOW, SETTLED, A, B, C, beats, running, target
from torchrun_rendezvous import board, clock
from torchrun_rendezvous.board import Board, NotReadyError
from torchrun_rendezvous.documents import ProtocolError
from torchrun_rendezvous.memory import Memory, Running
from torchrun_rendezvous.note import MAX_BYTES, Note, noted, read_note, resumed, written
from torchrun_rendezvous.protocol import Target
from torchrun_rendezvous.rounds import decide
from torchrun_rendezvous.view import KICK, Node, View, absent

COUNTED = Memory(
    running=replace(running(A, B, C), world=6),
    rounds=5,
    requested=3,
    unrequested=1,
    last_unrequested=(2, (A.address,), NOW - 60),
    completed_at=NOW - 10,
)
NOTE = noted(COUNTED, "aa", 7)
KNOWN = Running(4, ABC, frozenset(ABC), dict.fromkeys(ABC, -math.inf), world=6)


def test_a_note_is_read_as_it_was_written() -> None:
    assert read_note(written(NOTE)) == NOTE
    assert read_note(written(noted(Memory(), "bb", 1))) == Note("bb", 1)


def test_the_note_of_a_large_job_is_small() -> None:
    members = [Node(f"10.{i // 250}.{i % 250}.7", 7, 0) for i in range(1000)]
    assert len(written(noted(Memory(running=running(*members)), "aa", 7))) < 16_000


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        # All have seen the round, and train.
        (SETTLED, KNOWN),
        # One has joined the next round already, as its workers have failed.
        (replace(SETTLED, participants={B: 0}), replace(KNOWN, still=frozenset({A, C}))),
        # The last host had asked them to restart.
        (replace(SETTLED, waiting=frozenset({KICK})), replace(KNOWN, kicked=True)),
        # The last host had evicted one.
        (
            replace(SETTLED, heartbeats=beats(A, B), waiting=frozenset({KICK})),
            replace(KNOWN, still=frozenset({A, B}), kicked=True),
        ),
        # Not all have seen the round, and what they tell each other in the store is lost.
        (FORMED, replace(KNOWN, kicked=True, requested=True)),
        (
            replace(FORMED, participants={A: 0, B: 1}),
            replace(KNOWN, still=frozenset({A, B}), kicked=True, requested=True),
        ),
        # The note is older than the state.
        (View(round=9, heartbeats=beats(A)), None),
        (
            replace(FORMED, round=9),
            replace(KNOWN, round=9, beats=FORMED.heartbeats, kicked=True, requested=True, world=None),
        ),
        (
            replace(FORMED, round=9, participants={A: 0, B: 1, absent(2): 2}),
            Running(
                9,
                {A: 0, B: 1, absent(2): 2},
                frozenset({A, B}),
                {A: FORMED.heartbeats[A], B: FORMED.heartbeats[B], absent(2): -math.inf},
                kicked=True,
                requested=True,
            ),
        ),
        # No round trains.
        (View(round=6, participants={A: 0}, heartbeats=beats(A)), None),
    ],
)
def test_what_the_next_host_remembers(view: View, expected: Running | None) -> None:
    own = Memory(clock=3.0)
    returning = expected.still if expected else frozenset()
    assert resumed(NOTE, view, own) == replace(COUNTED, running=expected, clock=3.0, returning=returning)


def test_a_host_with_another_name_counts_from_zero() -> None:
    counted = replace(COUNTED, running=KNOWN, returning=KNOWN.still)
    expected = replace(counted, requested=0, unrequested=0, last_unrequested=None)
    assert resumed(NOTE, SETTLED, Memory(), same=False) == expected


def test_a_host_does_not_wait_for_a_member_that_the_last_one_has_evicted() -> None:
    new = Node("10.0.0.9", 8, 0)
    there = replace(SETTLED, participants=dict.fromkeys((A, B, new), 0), heartbeats=beats(A, B, new))
    memory = resumed(NOTE, there, Memory())
    for tick in range(3):
        decision = decide(there, target(3, 2, C), NOW + tick / 10, memory)
        there, memory = decision.view, decision.memory
    assert (there.complete, sorted(there.participants)) == (True, sorted((A, B, new)))


@pytest.mark.parametrize(
    ("back_after", "dropped_after"),
    [
        (1.0, None),
        # Longer than a silent node may be while all goes well: its attempt to reach the new host came to nothing.
        (12.0, None),
        # It went down with the last host.
        (math.inf, 16.0),
    ],
)
def test_a_member_has_time_to_find_the_next_host(back_after: float, dropped_after: float | None) -> None:
    memory, view = resumed(NOTE, SETTLED, Memory()), SETTLED
    found: list[float] = []
    for tick in range(250):
        passed = tick / 10
        beating = (A, B, C) if passed >= back_after else (A, B)
        if tick % 20 == 0:  # as often as agents send heartbeats
            view = replace(view, heartbeats={**view.heartbeats, **beats(*beating, at=NOW + passed)})
        decision = decide(view, target(3), NOW + passed, memory)
        view, memory = decision.view, decision.memory
        found += [passed for line in decision.lines if line["event"] == "evicted"]
    assert found == ([pytest.approx(dropped_after, abs=1.0)] if dropped_after else [])


@pytest.mark.parametrize(
    "text",
    [
        None,
        7,
        "",
        "no base64",
        base64.b64encode(b"not packed").decode(),
        base64.b64encode(zlib.compress(b"[]")).decode(),
        base64.b64encode(zlib.compress(b'{"instance": "aa"}')).decode(),
        base64.b64encode(zlib.compress(json.dumps({"instance": "../..", "version": 1}).encode())).decode(),
        base64.b64encode(zlib.compress(bytes(2 * MAX_BYTES))).decode(),
    ],
)
def test_a_wrong_note_is_refused(text: object) -> None:
    with pytest.raises(ProtocolError):
        read_note(text)


TARGET = Target(1, 2, 1, 5.0, ())


def test_the_operator_learns_nothing_before_it_is_known_who_this_host_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "READY_SECONDS", 0.01)
    successor = Board(seek_seconds=60.0)
    successor.publish(View(), Memory(), None)
    with pytest.raises(NotReadyError):
        successor.put(TARGET)
    assert successor.take_over("aa", 1000)
    assert (successor.put(TARGET).instance, successor.version) == ("aa", 1001)


def test_a_host_that_the_operator_knows_keeps_its_name() -> None:
    known = Board()
    known.publish(View(), Memory(), None)
    name = known.put(TARGET).instance
    assert not known.take_over("aa", 1000)
    assert known.instance == name


def test_the_first_node_that_joins_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "READY_SECONDS", 0.01)
    fresh = Board(seek_seconds=60.0)
    fresh.publish(View(participants={A: 0}, heartbeats=beats(A, at=clock.now())), Memory(), None)
    assert fresh.put(TARGET).target == TARGET
