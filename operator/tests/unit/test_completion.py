"""A job is complete when all members have succeeded; members are those of the newest complete round."""

from dataclasses import replace

import pytest

from builders import (
    HOST,
    NOW,
    THREE,
    after,
    at,
    facts,
    failed,
    instead,
    make_job,
    make_node,
    make_rendezvous,
    seen,
    terminating,
    training_job,
    without,
)
from torchrun_operator.api.v1alpha1 import TorchrunJob
from torchrun_operator.core.facts.model import NodePod, Phase, Wait
from torchrun_operator.core.findings.completion import Completion, completion
from torchrun_rendezvous.protocol import RendezvousState

DONE = tuple(make_node(index, Phase.SUCCEEDED) for index in range(3))
CLOSED = make_rendezvous(*THREE, closed=True)
RUNS, FINISHING = Completion(), Completion(finishing=True)
COMPLETE, BROKEN = Completion(finishing=True, complete=True), Completion(finishing=True, broken=True)
ALONE = Completion(finishing=True, no_round_since=NOW)
NO_ROUND = make_rendezvous(complete=False)
SPENT = Completion(rendezvous_spent=True)


def lost_before_the_last_round() -> TorchrunJob:
    """Return a job that trains with two nodes in round 2. The third one was lost long ago."""
    job = training_job()
    two = without(THREE, 1)
    job = after(job, seen(*two, rendezvous=make_rendezvous(*THREE)))
    return after(job, seen(*two, rendezvous=make_rendezvous(*two, round=2)))


def lost_and_still_terminating() -> TorchrunJob:
    nodes = instead(THREE, terminating(THREE[1]))
    job = after(training_job(), seen(*nodes, rendezvous=make_rendezvous(*THREE)))
    return after(job, seen(*nodes, rendezvous=make_rendezvous(*without(THREE, 1), round=2)))


CASES: dict[str, tuple[TorchrunJob, tuple[NodePod, ...], RendezvousState | None, Completion]] = {
    "it trains": (training_job(), THREE, make_rendezvous(*THREE), RUNS),
    "some wait for the others": (training_job(), THREE, make_rendezvous(*THREE, finished=2), FINISHING),
    "some wait for the others, whose workers have failed": (
        training_job(),
        THREE,
        make_rendezvous(*THREE, finished=2, unfinished=("10.0.1.0",), complete=False),
        BROKEN,
    ),
    "the agents have closed": (training_job(), THREE, CLOSED, FINISHING),
    "one has succeeded": (training_job(), instead(THREE, DONE[0]), CLOSED, FINISHING),
    "all have": (training_job(), DONE, CLOSED, COMPLETE),
    "all have, the host does not answer": (training_job(), DONE, None, COMPLETE),
    "one fails after another": (training_job(), instead(instead(THREE, DONE[0]), failed(1)), CLOSED, BROKEN),
    "one is deleted after another": (training_job(), without(DONE, 1), CLOSED, BROKEN),
    "one is being deleted": (training_job(), instead(DONE, terminating(THREE[1])), CLOSED, BROKEN),
    "one was deleted after it had succeeded": (
        after(training_job(), seen(*instead(THREE, DONE[1]), rendezvous=CLOSED)),
        without(DONE, 1),
        CLOSED,
        COMPLETE,
    ),
    "one was deleted after it had succeeded, and others train": (
        after(training_job(), seen(*instead(THREE, DONE[1]), rendezvous=CLOSED)),
        without(THREE, 1),
        make_rendezvous(*THREE, finished=1),
        FINISHING,
    ),
    "one was deleted after it had succeeded, and another one failed": (
        after(training_job(), seen(*instead(THREE, DONE[1]), rendezvous=CLOSED)),
        (DONE[0], failed(2)),
        CLOSED,
        BROKEN,
    ),
    "one was replaced": (training_job(), instead(DONE, make_node(1, life=2)), CLOSED, BROKEN),
    "one is lost while all end": (training_job(), without(THREE, 1), make_rendezvous(*THREE, finished=1), BROKEN),
    "quick, no status had ranks": (after(make_job(), seen(*THREE)), DONE, CLOSED, COMPLETE),
    "quick, and one runs still": (after(make_job(), seen(*THREE)), instead(DONE, THREE[1]), CLOSED, FINISHING),
    "quick, and one failed": (after(make_job(), seen(*THREE)), instead(DONE, failed(1)), CLOSED, BROKEN),
    "quick, and fewer than MIN are there": (after(make_job(), seen(*THREE)), DONE[:1], CLOSED, FINISHING),
    "without a round, and the host may still report one": (after(make_job(), seen(*THREE)), DONE, None, FINISHING),
    "without a round, and one runs": (after(make_job(), seen(*THREE)), instead(DONE, THREE[1]), NO_ROUND, FINISHING),
    "without a round": (after(make_job(), seen(*THREE)), DONE, NO_ROUND, ALONE),
    "without a round, and one never ran": (
        after(make_job(), seen(*THREE)),
        (*DONE[:2], make_node(2, Phase.PENDING)),
        NO_ROUND,
        ALONE,
    ),
    "without a round, and one failed": (after(make_job(), seen(*THREE)), instead(DONE, failed(1)), NO_ROUND, ALONE),
    "without a round, and another host is new": (
        after(after(make_job(), seen(*THREE)), seen(*DONE, rendezvous=NO_ROUND)),
        DONE,
        replace(NO_ROUND, instance="bb"),
        ALONE,
    ),
    "without a round for 9 s": (
        after(make_job(), seen(*DONE, rendezvous=NO_ROUND), at(-9)),
        DONE,
        NO_ROUND,
        replace(ALONE, no_round_since=at(-9)),
    ),
    "without a round for 10 s": (
        after(make_job(), seen(*DONE, rendezvous=NO_ROUND), at(-10)),
        DONE,
        NO_ROUND,
        replace(ALONE, no_round_since=at(-10), no_round=True),
    ),
    "without a round, and then news of one": (
        after(make_job(), seen(*DONE, rendezvous=NO_ROUND), at(-9)),
        DONE,
        CLOSED,
        COMPLETE,
    ),
    "the clock was set back": (
        after(make_job(), seen(*DONE, rendezvous=NO_ROUND), at(3600)),
        DONE,
        NO_ROUND,
        replace(ALONE, no_round_since=at(3600), no_round=True),
    ),
    "those that closed it are gone": (training_job(), (), CLOSED, SPENT),
    "those that closed it failed": (training_job(), tuple(failed(i) for i in range(3)), CLOSED, SPENT),
    "those that closed it were replaced": (
        after(training_job(), seen()),
        tuple(make_node(i, Phase.PENDING, life=2) for i in range(3)),
        CLOSED,
        SPENT,
    ),
    "those that waited for the others were deleted": (
        training_job(),
        tuple(terminating(node) for node in THREE),
        make_rendezvous(*THREE, finished=1),
        SPENT,
    ),
    "a node that was lost rounds ago is no member": (
        lost_before_the_last_round(),
        without(DONE, 1),
        make_rendezvous(*without(THREE, 1), round=2, closed=True),
        COMPLETE,
    ),
    "its replacement is not scheduled": (
        lost_before_the_last_round(),
        instead(DONE, make_node(1, Phase.PENDING, life=2)),
        make_rendezvous(*without(THREE, 1), round=2, closed=True),
        COMPLETE,
    ),
    "a node that is stuck in its deletion is no member": (
        lost_and_still_terminating(),
        instead(DONE, terminating(THREE[1])),
        make_rendezvous(*without(THREE, 1), round=2, closed=True),
        COMPLETE,
    ),
    "a node that came too late is no member": (
        training_job(*THREE[:2]),
        (*DONE[:2], make_node(2, Phase.RUNNING)),
        make_rendezvous(*THREE[:2], closed=True),
        COMPLETE,
    ),
}


@pytest.mark.parametrize(("job", "nodes", "rendezvous", "expected"), CASES.values(), ids=CASES)
def test_completion(
    job: TorchrunJob, nodes: tuple[NodePod, ...], rendezvous: RendezvousState | None, expected: Completion
) -> None:
    found = facts(job=job, nodes=nodes, rendezvous_pod=HOST, rendezvous=rendezvous)
    assert completion(found, 3) == expected


def test_a_host_that_cannot_start_has_completed_no_round() -> None:
    """Its image has no torch, for example: then no agent of the same image has trained either."""
    job = after(make_job(), seen(*THREE))
    crashes = replace(HOST, ready=False, wait=Wait("CrashLoopBackOff", "back-off"))
    assert completion(facts(job=job, nodes=DONE, rendezvous_pod=crashes), 3) == ALONE
    starts = replace(HOST, ready=False, phase=Phase.STARTING)
    assert completion(facts(job=job, nodes=DONE, rendezvous_pod=starts), 3) == FINISHING
