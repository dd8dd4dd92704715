"""A job is complete when all members have succeeded; members are those of the newest complete round."""

import pytest

from builders import (
    HOST,
    THREE,
    after,
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
from torchrun_operator.core.facts.model import NodePod, Phase
from torchrun_operator.core.findings.completion import Completion, completion
from torchrun_rendezvous.protocol import RendezvousState

DONE = tuple(make_node(index, Phase.SUCCEEDED) for index in range(3))
CLOSED = make_rendezvous(*THREE, closed=True)
RUNS, FINISHING = Completion(), Completion(finishing=True)
COMPLETE, BROKEN = Completion(finishing=True, complete=True), Completion(finishing=True, broken=True)
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
    "the agents have closed": (training_job(), THREE, CLOSED, FINISHING),
    "one has succeeded": (training_job(), instead(THREE, DONE[0]), CLOSED, FINISHING),
    "all have": (training_job(), DONE, CLOSED, COMPLETE),
    "all have, the host does not answer": (training_job(), DONE, None, COMPLETE),
    "one fails after another": (training_job(), instead(instead(THREE, DONE[0]), failed(1)), CLOSED, BROKEN),
    "one is deleted after another": (training_job(), without(DONE, 1), CLOSED, BROKEN),
    "one is being deleted": (training_job(), instead(DONE, terminating(THREE[1])), CLOSED, BROKEN),
    "one was replaced": (training_job(), instead(DONE, make_node(1, life=2)), CLOSED, BROKEN),
    "one is lost while all end": (training_job(), without(THREE, 1), make_rendezvous(*THREE, finished=1), BROKEN),
    "quick, no status had ranks": (after(make_job(), seen(*THREE)), DONE, None, COMPLETE),
    "quick, and one runs still": (after(make_job(), seen(*THREE)), instead(DONE, THREE[1]), None, FINISHING),
    "quick, and one failed": (after(make_job(), seen(*THREE)), instead(DONE, failed(1)), None, BROKEN),
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
