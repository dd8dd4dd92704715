"""Which nodes must leave, which ones train, the size of the next round, and when failed nodes are replaced."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from builders import (
    HOST,
    NOW,
    THREE,
    facts,
    failed,
    instead,
    keeping_out,
    make_node,
    make_rendezvous,
    seen,
    terminating,
)
from torchrun_operator.core.facts.model import Facts, NodePod, Phase, Wait
from torchrun_operator.core.findings.membership import is_full, leavers, ranks, training
from torchrun_operator.core.findings.reach import services_due
from torchrun_operator.core.findings.size import absence, absences, patience_ends, round_size
from torchrun_operator.core.findings.wanted import Wanted

STRANGER = make_rendezvous(*THREE, waiting=("10.9.9.9",))
MANY = tuple(f"10.9.8.{i}" for i in range(100, 201))

LEAVERS: dict[str, tuple[Facts, int, tuple[str, ...]]] = {
    "none": (seen(*THREE, rendezvous=make_rendezvous(*THREE)), 3, ()),
    "surplus": (seen(*THREE, rendezvous=make_rendezvous(*THREE)), 2, ("10.0.1.2",)),
    "failed and terminating": (
        seen(failed(0), terminating(THREE[1]), THREE[2], rendezvous=make_rendezvous(*THREE)),
        3,
        ("10.0.1.0", "10.0.1.1"),
    ),
    "gone": (seen(*THREE[1:], rendezvous=make_rendezvous(*THREE)), 3, ("10.0.1.0",)),
    "a stranger": (seen(*THREE, rendezvous=STRANGER), 3, ("10.9.9.9",)),
    "an unknown address that may be of the new pod": (
        seen(*THREE[:2], make_node(2, Phase.STARTING), rendezvous=STRANGER),
        3,
        (),
    ),
    "an unknown address, though a new pod may run by now": (
        seen(*THREE[:2], make_node(2, Phase.PENDING), rendezvous=STRANGER),
        3,
        (),
    ),
    "an unknown address while a pod is not scheduled": (
        seen(*THREE[:2], make_node(2, Phase.PENDING, wait=Wait("Unschedulable")), rendezvous=STRANGER),
        3,
        ("10.0.1.2", "10.9.9.9"),
    ),
    "an unknown address that was kept out before, though a new pod may run by now": (
        seen(*THREE[:2], make_node(2, Phase.PENDING), rendezvous=keeping_out(STRANGER, "10.9.9.9")),
        3,
        ("10.9.9.9",),
    ),
    "kept out before, and no longer there: it may come back": (
        seen(*THREE, rendezvous=keeping_out(make_rendezvous(*THREE), "10.9.9.9")),
        3,
        ("10.9.9.9",),
    ),
    "kept out before, and now the address of a new pod": (
        seen(*THREE, rendezvous=keeping_out(make_rendezvous(*THREE[:2]), "10.0.1.2")),
        3,
        (),
    ),
    "as many kept out as are remembered": (
        seen(*THREE, rendezvous=keeping_out(make_rendezvous(*THREE), *MANY[:100])),
        3,
        MANY[:100],
    ),
    "more kept out than are remembered": (
        seen(*THREE, rendezvous=keeping_out(make_rendezvous(*THREE, waiting=MANY[:1]), *MANY)),
        3,
        MANY[:1],
    ),
    "lost with its Kubernetes node": (
        seen(make_node(0, Phase.LOST), *THREE[1:], rendezvous=make_rendezvous(*THREE[1:])),
        3,
        ("10.0.1.0",),
    ),
    "succeeded: it has left by itself": (
        seen(make_node(0, Phase.SUCCEEDED), *THREE[1:], rendezvous=make_rendezvous(*THREE)),
        3,
        (),
    ),
    "an address that a new pod has taken over": (
        seen(failed(0), replace(THREE[1], address="10.0.1.0"), rendezvous=make_rendezvous(*THREE[:1])),
        3,
        (),
    ),
    "the host does not answer": (seen(failed(0), *THREE[1:]), 3, ("10.0.1.0",)),
}


FOUR = (*THREE, make_node(3))
SPARED: dict[str, tuple[Facts, int, int, tuple[str, ...]]] = {
    "a spare waits": (seen(*FOUR, rendezvous=make_rendezvous(*THREE, waiting=("10.0.1.3",))), 3, 1, ()),
    "a spare with the lowest index": (
        seen(*FOUR, rendezvous=make_rendezvous(*FOUR[1:], waiting=("10.0.1.0",))),
        3,
        1,
        (),
    ),
    "one spare too many": (seen(*FOUR, rendezvous=make_rendezvous(*THREE, waiting=("10.0.1.3",))), 3, 0, ("10.0.1.3",)),
    "scaled down: the member of the highest rank becomes a spare": (
        seen(*FOUR, rendezvous=make_rendezvous(FOUR[3], *THREE)),
        3,
        1,
        ("10.0.1.2",),
    ),
    "scaled down, and a pod goes as well: enough are left": (
        seen(*FOUR, rendezvous=make_rendezvous(FOUR[0], *FOUR[2:], waiting=("10.0.1.1",))),
        2,
        1,
        ("10.0.1.3",),
    ),
    "the round is over: no node is a member": (
        seen(*FOUR, rendezvous=make_rendezvous(*FOUR, complete=False)),
        3,
        1,
        (),
    ),
}


@pytest.mark.parametrize(("observed", "wanted", "spares", "expected"), SPARED.values(), ids=SPARED)
def test_leavers_of_a_job_with_spares(observed: Facts, wanted: int, spares: int, expected: tuple[str, ...]) -> None:
    assert leavers(observed, wanted, spares) == expected


@pytest.mark.parametrize(("observed", "wanted", "expected"), LEAVERS.values(), ids=LEAVERS)
def test_leavers(observed: Facts, wanted: int, expected: tuple[str, ...]) -> None:
    assert leavers(observed, wanted) == expected


TRAINING: dict[str, tuple[Facts, tuple[NodePod, ...]]] = {
    "all": (seen(*THREE, rendezvous=make_rendezvous(*THREE)), THREE),
    "the round is open": (seen(*THREE, rendezvous=make_rendezvous(*THREE, complete=False)), ()),
    "the host does not answer": (seen(*THREE), ()),
    "one is terminating": (seen(*instead(THREE, terminating(THREE[0])), rendezvous=make_rendezvous(*THREE)), THREE[1:]),
    "one is not in": (seen(*THREE, rendezvous=make_rendezvous(*THREE[:2])), THREE[:2]),
    "surplus": (
        seen(*THREE, make_node(3), rendezvous=make_rendezvous(*THREE, make_node(3))),
        THREE,
    ),
}


@pytest.mark.parametrize(("observed", "expected"), TRAINING.values(), ids=TRAINING)
def test_training(observed: Facts, expected: tuple[NodePod, ...]) -> None:
    assert training(observed, 3) == expected


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        (seen(*THREE, rendezvous=make_rendezvous(*THREE)), [0, 1, 2]),
        (seen(*THREE, rendezvous=make_rendezvous(*THREE[1:])), [None, 0, 1]),
        (seen(*THREE, rendezvous=make_rendezvous(*THREE, complete=False)), [None, None, None]),
        (seen(*THREE), [None, None, None]),
    ],
)
def test_ranks(observed: Facts, expected: list[int | None]) -> None:
    assert [ranks(observed).get(node.address or "") for node in THREE] == expected


YOUNG = make_node(2, Phase.PENDING, created_at=NOW - timedelta(seconds=1))
SLOW = make_node(2, Phase.STARTING, created_at=NOW - timedelta(seconds=16))
TRAINED = make_rendezvous(*THREE[:2], completed_at=NOW)
SIZES = {
    "all train": (seen(*THREE), frozenset(), 3),
    "one is missing: it is being created": (seen(*THREE[:2]), frozenset(), 3),
    "one starts": (seen(*THREE[:2], make_node(2, Phase.STARTING)), frozenset(), 3),
    "one has just been created": (seen(*THREE[:2], YOUNG), frozenset(), 3),
    "one is not scheduled": (seen(*THREE[:2], make_node(2, Phase.PENDING)), frozenset(), 2),
    "one cannot pull its image": (
        seen(*THREE[:2], make_node(2, Phase.STARTING, wait=Wait("ImagePullBackOff"))),
        frozenset(),
        2,
    ),
    "one starts for long": (seen(*THREE[:2], SLOW, rendezvous=TRAINED), frozenset(), 2),
    "one starts for long, as all do before the first round": (seen(*THREE[:2], SLOW), frozenset(), 3),
    "one is silent": (
        seen(*THREE, rendezvous=make_rendezvous(*THREE[:2], silent=("10.0.1.2",))),
        frozenset(),
        2,
    ),
    "one is lost with its Kubernetes node": (seen(*THREE[:2], make_node(2, Phase.LOST)), frozenset(), 3),
    "one is held back after a failure": (seen(*THREE[:2], failed(2)), frozenset({2}), 2),
    "one has failed and is replaced now": (seen(*THREE[:2], failed(2)), frozenset(), 3),
    "never below the minimum": (seen(*(make_node(index, Phase.PENDING) for index in range(3))), frozenset(), 2),
    "surplus nodes do not count": (seen(*THREE, make_node(3, Phase.PENDING)), frozenset({3}), 3),
}


@pytest.mark.parametrize(("observed", "held", "expected"), SIZES.values(), ids=SIZES)
def test_size(observed: Facts, held: frozenset[int], expected: int) -> None:
    assert round_size(Wanted(3, 0, 2), {*absences(observed), *held}) == expected


@pytest.mark.parametrize(
    ("pending", "held", "expected"),
    [
        ((), frozenset(), 3),
        ((4,), frozenset(), 3),
        ((1, 4), frozenset(), 3),
        ((1, 2), {0}, 2),
        ((0, 1, 2), frozenset(), 2),
    ],
)
def test_size_with_two_spares(pending: tuple[int, ...], held: frozenset[int], expected: int) -> None:
    nodes = (make_node(index, Phase.PENDING if index in pending else Phase.RUNNING) for index in range(5))
    assert round_size(Wanted(3, 2, 2), {*absences(seen(*nodes)), *held}) == expected


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        (seen(*THREE, rendezvous=make_rendezvous(*THREE)), True),
        (seen(*THREE, rendezvous=make_rendezvous(*THREE[1:])), False),
        (seen(*THREE, rendezvous=make_rendezvous(*THREE, complete=False)), False),
        (seen(*THREE), False),
    ],
)
def test_is_full(observed: Facts, expected: bool) -> None:
    assert is_full(observed, 3) is expected


def test_patience_ends() -> None:
    pods = (make_node(0), make_node(1, Phase.PENDING), YOUNG)
    assert patience_ends(seen(*pods), 3) == [NOW + timedelta(seconds=2)]
    starting = make_node(2, Phase.STARTING, created_at=NOW - timedelta(seconds=5))
    assert patience_ends(seen(starting), 3) == []
    assert patience_ends(seen(starting, rendezvous=TRAINED), 3) == [NOW + timedelta(seconds=10)]


STARTED_HOST = replace(HOST, started_at=NOW - timedelta(seconds=1))
THREE_STARTED = tuple(replace(node, started_at=NOW) for node in THREE)
UNSTARTED = replace(THREE[0], address=None, started_at=None)


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        (facts(), None),
        (seen(UNSTARTED, rendezvous_pod=replace(HOST, address=None, started_at=None)), None),
        (seen(*THREE_STARTED, rendezvous_pod=STARTED_HOST), datetime.min.replace(tzinfo=UTC)),
        (seen(UNSTARTED, *THREE_STARTED[1:], rendezvous_pod=STARTED_HOST), NOW + timedelta(seconds=2)),
        (seen(*THREE_STARTED, rendezvous_pod=replace(HOST, address=None, started_at=None)), NOW + timedelta(seconds=3)),
        (seen(*THREE_STARTED, rendezvous_pod=None), datetime.min.replace(tzinfo=UTC)),
    ],
    ids=["no pod", "none has started", "all have addresses", "a node has none", "the host has none", "no host"],
)
def test_services_due(observed: Facts, expected: datetime | None) -> None:
    assert services_due(observed) == expected


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (THREE[0], ""),
        (
            make_node(0, Phase.STARTING, wait=Wait("CrashLoopBackOff", "back-off")),
            "CrashLoopBackOff: back-off",
        ),
        (make_node(0, Phase.PENDING, wait=Wait("Unschedulable", "no GPU")), "no GPU"),
        (make_node(0, Phase.PENDING), "is not scheduled yet"),
        (replace(SLOW, index=0), "is starting on machine-2"),
        (THREE[2], "is silent"),
    ],
)
def test_absence(node: NodePod, words: str) -> None:
    assert absence(seen(node, rendezvous=replace(TRAINED, silent=("10.0.1.2",))), node) == words
