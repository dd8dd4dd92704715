"""Which nodes the rendezvous host considers ended, silent or alive."""

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
    open_round,
    remembered,
    running,
    target,
)
from torchrun_rendezvous.memory import LifeSigns, Memory, Senses
from torchrun_rendezvous.view import KICK, absent


def life(clock: float = 100.0, beat: float = NOW, **silences: float) -> dict[str, object]:
    """Memory of A, B and C, whose last heartbeats are current, or that many seconds old."""
    ago = {A: silences.get("a", 0.0), B: silences.get("b", 0.0), C: silences.get("c", 0.0)}
    seen = {n: LifeSigns(beat, clock - seconds) for n, seconds in ago.items()}
    return {"signs": seen, "clock": clock, "looked_at": NOW, "heard_at": NOW}


def quiet(**others: LifeSigns) -> dict[str, object]:
    """Memory of A and B with current heartbeats, and of C as given."""
    return {**life(), "signs": {A: LifeSigns(NOW, 100.0), B: LifeSigns(NOW, 100.0), C: others["C"]}}


def wired(missing: float | None = None) -> dict[str, object]:
    """Memory of A, B and C, all connected before, and C disconnected for that many seconds."""
    seen = {A: LifeSigns(NOW, 100.0, True), B: LifeSigns(NOW, 100.0, True), C: LifeSigns(NOW, 100.0, True)}
    if missing is not None:
        seen[C] = seen[C]._replace(disconnected_at=NOW - missing)
    return {**life(), "signs": seen}


def reachable(beat: float = NOW, **unanswered: float) -> dict[str, object]:
    """Memory of A, B and C with current heartbeats, whose kernels last acknowledged data that many seconds ago."""
    ago = {A: unanswered.get("a", 0.0), B: unanswered.get("b", 0.0), C: unanswered.get("c", 0.0)}
    return {**life(), "signs": {n: LifeSigns(beat, 100.0, reached=100.0 - seconds) for n, seconds in ago.items()}}


BEFORE = NOW - 10
"""Of the heartbeats in FORMED."""
ONLY_AB = Senses(peers=frozenset({A.address, B.address}))


CASES = {
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
    "for a shorter time, the list may only have missed it": Case(
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
        also={"signs": wired(missing=0.0)["signs"]},
        senses=ONLY_AB,
    ),
    "it is there again": Case(
        SETTLED,
        target(3),
        remembered(running(A, B, C), **wired(missing=0.9)),
        SETTLED,
        running(A, B, C),
        also={"signs": wired()["signs"]},
        senses=Senses(peers=frozenset({A.address, B.address, C.address})),
    ),
    "nodes that were never seen connected have other addresses on the way, so that says nothing": Case(
        SETTLED,
        target(3),
        remembered(running(A, B, C), **life()),
        SETTLED,
        running(A, B, C),
        also={"signs": life()["signs"]},
        senses=Senses(peers=frozenset()),
    ),
    "a node that waits for a round has ended": Case(
        open_round(A, B, C),
        target(4),
        Memory(**wired(missing=1.0)),  # type: ignore[arg-type]
        open_round(A, B),
        lines=("evicted",),
        senses=ONLY_AB,
    ),
    "a member is silent: the others continue without it, and the host waits for its return": Case(
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
    "a member's kernel has acknowledged nothing for four seconds: it is off, or cut off": Case(
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
        also={"signs": reachable(c=3.9)["signs"]},
    ),
    "it acknowledges something": Case(
        SETTLED,
        target(3),
        remembered(running(A, B, C), **reachable(c=3.9)),
        SETTLED,
        running(A, B, C),
        senses=Senses(unanswered={C.address: 0.5}),
        also={"signs": reachable(c=0.5)["signs"]},
    ),
    "most kernels acknowledge nothing: more likely the host's own network is down": Case(
        SETTLED,
        target(3),
        remembered(running(A, B, C), **reachable(b=10.0, c=10.0)),
        SETTLED,
        running(A, B, C),
        also={"evictions": {}},
    ),
    "a kernel is judged from when it was first seen connected": Case(
        SETTLED,
        target(3),
        remembered(running(A, B, C), **life()),
        SETTLED,
        running(A, B, C),
        senses=Senses(unanswered={A.address: 0.0, B.address: 0.0, C.address: 30.0}),
        also={"signs": reachable()["signs"]},
    ),
    "time passes while any node is heard": Case(
        SETTLED,
        target(3),
        remembered(running(A, B, C), **{**life(c=7.75), "looked_at": NOW - 0.25, "heard_at": NOW - 4.75}),
        replace(SETTLED, waiting=frozenset({KICK})),
        KICKED,
        ("evicted", "round-kicked"),
        also={"clock": 100.25},
    ),
    "and stops while none is: then the host is cut off": Case(
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
            signs={A: LifeSigns(NOW - 20, 95.0), B: LifeSigns(NOW, 95.0), C: LifeSigns(NOW, 92.0)},
        ),
        SETTLED,
        running(A, B, C),
        also={"signs": {A: LifeSigns(NOW, 100.0, beat_at=NOW), B: LifeSigns(NOW, 100.0), C: LifeSigns(NOW, 100.0)}},
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
        remembered(running(A, B, C), **quiet(C=LifeSigns(500.0, 95.0, beat_at=NOW - 4.5))),
        replace(SETTLED, heartbeats={**beats(A, B), C: 502.5}),
        running(A, B, C),
        also={"signs": quiet(C=LifeSigns(502.5, 95.0, beat_at=NOW - 2))["signs"]},
    ),
    "that does not say that a member has seen the fresh round": Case(
        replace(FORMED, heartbeats={**beats(A, B), C: 500.0}),
        target(3),
        remembered(
            replace(running(A, B, C), beats={**beats(A, B, at=NOW - 10), C: 500.0}),
            **quiet(C=LifeSigns(500.0, 95.0, beat_at=NOW - 4.5)),
        ),
        replace(FORMED, heartbeats={**beats(A, B), C: 502.5}),
        replace(running(A, B, C), beats={**beats(A, B, at=NOW - 10), C: 502.5}),
    ),
    "agents dropped a member of a settled round: it did not leave": Case(
        replace(SETTLED, heartbeats=beats(A, B)),
        target(3),
        remembered(running(A, B, C), **quiet(C=LifeSigns(500.0, 95.0, beat_at=NOW - 4.5))),
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
    "most are silent: more likely the host receives nothing": Case(
        SETTLED, target(3), remembered(running(A, B, C), **life(b=8.0, c=29.9)), SETTLED, running(A, B, C)
    ),
    "a node that was given up before is not one of them": Case(
        SETTLED,
        target(3),
        remembered(running(A, B), **life(b=8.0, c=60.0), evicted=frozenset({C})),
        replace(SETTLED, waiting=frozenset({KICK})),
        replace(running(A, B, still=frozenset({A})), kicked=True, requested=True),
        ("evicted", "round-kicked"),
    ),
    "but not forever: the silent majority is dropped": Case(
        SETTLED,
        target(3),
        remembered(running(A, B, C), **life(b=30.0, c=30.0)),
        replace(SETTLED, waiting=frozenset({KICK})),
        replace(running(A, B, C, still=frozenset({A})), kicked=True, requested=True),
        ("evicted", "round-kicked"),
    ),
    "a node that has been silent for two minutes has ended": Case(
        replace(SETTLED, participants={A: 0, B: 0}),
        target(3, 3),
        Memory(**life(c=120.0)),  # type: ignore[arg-type]
        open_round(A, B),
        lines=("evicted",),
    ),
    "members that wait for rank 0's address are silent by nature": Case(
        FORMED,
        target(3),
        remembered(
            replace(running(A, B, C), unpublished=9.0, unheard=9.0),
            **{**life(a=12.0, b=12.0, c=12.0, beat=BEFORE), "looked_at": NOW - 0.5},
        ),
        FORMED,
        replace(running(A, B, C), unpublished=9.5, unheard=9.5),
        senses=Senses(published=False),
    ),
    "rank 0 is heard, so it is only slow": Case(
        replace(FORMED, heartbeats={**FORMED.heartbeats, A: NOW}),
        target(3),
        remembered(
            replace(running(A, B, C), unpublished=29.0, unheard=9.5),
            **{**life(a=12.0, b=12.0, c=12.0, beat=BEFORE), "looked_at": NOW - 0.5},
        ),
        replace(FORMED, heartbeats={**FORMED.heartbeats, A: NOW}),
        replace(running(A, B, C), unpublished=29.5, unheard=0.0),
        senses=Senses(published=False),
    ),
    "rank 0 is heard, and does not say for half a minute where it is": Case(
        FORMED,
        target(3),
        remembered(
            replace(running(A, B, C), unpublished=29.5, unheard=1.0),
            **{**life(a=2.0, b=12.0, c=12.0, beat=BEFORE), "looked_at": NOW - 0.5},
        ),
        replace(FORMED, participants={B: 1, C: 2, absent(0): 0}, waiting=frozenset({KICK})),
        replace(running(A, B, C, still=frozenset({B, C})), kicked=True, requested=True, unpublished=30.0, unheard=1.5),
        ("evicted", "round-kicked"),
        repair=4,
        senses=Senses(published=False),
    ),
    "rank 0 does not say where it is": Case(
        FORMED,
        target(3),
        remembered(
            replace(running(A, B, C), unpublished=9.5, unheard=9.5),
            **{**life(a=12.0, b=12.0, c=12.0, beat=BEFORE), "looked_at": NOW - 0.5},
        ),
        replace(FORMED, participants={B: 1, C: 2, absent(0): 0}, waiting=frozenset({KICK})),
        replace(running(A, B, C, still=frozenset({B, C})), kicked=True, requested=True, unpublished=10.0, unheard=10.0),
        ("evicted", "round-kicked"),
        repair=4,
        senses=Senses(published=False),
    ),
    "a Kubernetes node is lost while members wait for rank 0's address": Case(
        FORMED,
        target(3),
        remembered(
            replace(running(A, B, C), unpublished=1.0, unheard=1.0),
            **{**reachable(c=4.0, beat=BEFORE), "looked_at": NOW - 0.5},
        ),
        replace(FORMED, participants={A: 0, B: 1, absent(2): 2}, waiting=frozenset({KICK})),
        replace(KICKED, unpublished=1.5, unheard=1.5),
        ("evicted", "round-kicked"),
        senses=Senses(published=False),
    ),
    "a node is heard again while the others form a round without it: it must leave its round": Case(
        replace(SETTLED, participants={A: 0}, heartbeats=beats(A, B, C)),
        target(3, 3),
        Memory(**life(b=30.0)),  # type: ignore[arg-type]
        replace(SETTLED, participants={A: 0}, heartbeats=beats(A, B, C), waiting=frozenset({KICK})),
        lines=("evicted",),
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
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_decision(case: Case) -> None:
    assert_decides(case)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_second_look_changes_nothing_more(case: Case) -> None:
    assert_settles(case)
