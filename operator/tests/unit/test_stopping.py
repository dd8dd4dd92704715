"""Nodes that are slow to stop, and what the status and the events say about them."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from builders import NOW, THREE, after, at, decide, instead, make_rendezvous, seen, suspended, terminating, training_job
from torchrun_operator.api.conditions import ConditionType, find_condition
from torchrun_operator.api.v1alpha1 import TorchrunJob, TorchrunJobStatus
from torchrun_operator.core.events import Event, transitions
from torchrun_operator.core.facts.model import Facts, NodePod
from torchrun_rendezvous.protocol import RendezvousState

ALL = make_rendezvous(*THREE)


def going(node: NodePod) -> NodePod:
    return terminating(node, stop_requested_at=NOW, grace_seconds=60)


def two_of_three(**changes: object) -> RendezvousState:
    return replace(make_rendezvous(*THREE[:2], round=1, complete=False), **changes)  # type: ignore[arg-type]


def resized() -> TorchrunJob:
    """Return a job whose workers restart since NOW, because a node joins."""
    job = training_job(*THREE)
    change = {"time": NOW, "cause": "resize"}
    status = job.status.model_dump(by_alias=True)
    status["membership"]["lastChange"] = change
    return job.model_copy(update={"status": TorchrunJobStatus.model_validate(status)})


POD = (
    "pod digits-2 has not ended 10 s after SIGTERM; the kubelet kills it 60 s after SIGTERM "
    "(terminationGracePeriodSeconds), and "
)
WORKERS = (
    "the workers of pod digits-2 have not ended 10 s after SIGTERM; torchrun kills them 30 s after SIGTERM, and the "
    "other nodes wait until then"
)
DRAINED = seen(*instead(THREE, going(THREE[2])), rendezvous=make_rendezvous(*THREE[:2], complete=False, round=1))

CASES: dict[str, tuple[Callable[[], TorchrunJob], Facts, float, ConditionType, str, str]] = {
    "a pod is drained": (
        lambda: after(training_job(), DRAINED),
        DRAINED,
        9,
        ConditionType.RESIZING,
        "NodeLost",
        "0 of 3 nodes train; lost: digits-2",
    ),
    "a drained pod ignores SIGTERM": (
        lambda: after(training_job(), DRAINED),
        DRAINED,
        10,
        ConditionType.RESIZING,
        "SlowToStop",
        f"0 of 3 nodes train; {POD}its replacement waits until then",
    ),
    "workers stop": (
        resized,
        seen(*THREE, rendezvous=two_of_three()),
        9,
        ConditionType.RESIZING,
        "RestartingWorkers",
        "workers restart; 2 of 3 nodes have joined the next round",
    ),
    "workers ignore SIGTERM": (
        resized,
        seen(*THREE, rendezvous=two_of_three()),
        10,
        ConditionType.RESIZING,
        "SlowToStop",
        f"0 of 3 nodes train; {WORKERS}",
    ),
    "their node is silent": (
        resized,
        seen(*THREE, rendezvous=two_of_three(silent=("10.0.1.2",))),
        10,
        ConditionType.RESIZING,
        "RestartingWorkers",
        "workers restart; 2 of 3 nodes have joined the next round",
    ),
    "a pod of a suspended job ignores SIGTERM": (
        lambda: suspended(training_job()),
        seen(going(THREE[2])),
        10,
        ConditionType.SUSPENDED,
        "Suspending",
        f"1 pod is being deleted; {POD}the pod keeps its resources until then",
    ),
}


@pytest.mark.parametrize(("job", "observed", "seconds", "type_", "reason", "message"), CASES.values(), ids=CASES)
def test_words(
    job: Callable[[], TorchrunJob], observed: Facts, seconds: float, type_: ConditionType, reason: str, message: str
) -> None:
    found = find_condition(decide(job(), observed, at(seconds)).status.conditions, type_)
    assert found is not None
    assert (found.reason, found.message) == (reason, message)


def test_the_pass_that_notices_it_comes_in_time() -> None:
    assert decide(resized(), seen(*THREE, rendezvous=two_of_three()), at(4)).plan.look_again_seconds == 6.0


def test_it_is_one_event() -> None:
    job, observed = resized(), seen(*THREE, rendezvous=two_of_three())
    told = []
    for seconds in (1, 10, 11, 12):
        later = after(job, observed, at(seconds))
        told += list(transitions(job.status, later.status))
        job = later
    assert told == [Event("SlowToStop", f"0 of 3 nodes train; {WORKERS}", warning=True)]
