"""The one decision, case by case: the whole decision, and of its status the state, the counts and the conditions."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from builders import (
    CREATED,
    DIGEST,
    HOST,
    NOW,
    THREE,
    after,
    at,
    failed,
    instead,
    make_job,
    make_node,
    make_rendezvous,
    scaled,
    seen,
    stored,
    suspended,
    terminating,
    training_job,
    without,
)
from torchrun_operator.api.conditions import ConditionStatus, ConditionType
from torchrun_operator.api.v1alpha1 import Restarts, TorchrunJob, TorchrunJobStatus
from torchrun_operator.core.decide import decide
from torchrun_operator.core.decision import Decision, Deletion, Event
from torchrun_operator.core.membership import Target
from torchrun_operator.core.observed import Cause, Exit, Observed, Phase

ALL = make_rendezvous(*THREE)
DONE = tuple(make_node(index, Phase.SUCCEEDED) for index in range(3))
NOTHING = TorchrunJobStatus()
START_OVER = "a node was lost after others had finished: all start again from the last snapshot"


def target(*leavers: str, size: int = 3, **changes: Any) -> Target:
    return Target(
        **{"generation": 1, "size": size, "minimum": 2, "last_call_seconds": 15.0, "leavers": leavers, **changes}
    )


def decision(**parts: Any) -> Decision:
    """Return a decision without its status; that of a job that goes on, where nothing else is said."""
    return Decision(**{"status": NOTHING, "apply_objects": True, "target": target(), **parts})


@dataclass(frozen=True)
class Case:
    job: TorchrunJob
    observed: Observed
    expected: Decision
    state: str
    true: tuple[str, ...]
    """Reasons of the conditions that hold."""
    restarts: Restarts = field(default_factory=Restarts)
    now: datetime = NOW


def lost(index: int, what: str, cause: str) -> Event:
    return Event("NodeLost", f"Node {index} (pod digits-{index}) {what}; cause: {cause}", warning=True)


def loss_case(node: Any, what: str, cause: Cause, *, leavers: tuple[str, ...] = ("10.0.1.1",)) -> Case:
    """Return the case of a job of three that trains and loses node 1, which is seen as `node`."""
    nodes = instead(THREE, node) if node is not None else without(THREE, 1)
    deletions = (Deletion("digits-1", "pod-1-1", what, 0),) if node is not None and node.phase is Phase.FAILED else ()
    expected = decision(
        create_nodes=(1,) if node is None else (),
        deletions=deletions,
        target=target(*leavers),
        events=(lost(1, what, cause),),
        losses={cause: 1},
    )
    true = ("Valid", "AllScheduled", "Training", "NodeLost") if node is not None else ("Valid", "Training", "NodeLost")
    return Case(training_job(), seen(*nodes, rendezvous=ALL), expected, "Resizing", true, Restarts(**{str(cause): 1}))


LOSSES = {
    "a node is deleted": loss_case(None, "was deleted", Cause.INFRASTRUCTURE),
    "a node is being deleted": loss_case(terminating(THREE[1]), "is being deleted", Cause.INFRASTRUCTURE),
    "a node is preempted": loss_case(
        terminating(THREE[1], disrupted=True), "is being evicted or preempted", Cause.PREEMPTION
    ),
    "a node is evicted by its kubelet": loss_case(
        failed(1, -1, "Evicted", "disk", disrupted=True), "failed: Evicted: disk", Cause.PREEMPTION
    ),
    "a node's code fails": loss_case(failed(1, 3), "exited with code 3 (Error)", Cause.CODE),
    "a node is out of memory": loss_case(failed(1, 137, "OOMKilled"), "exited with code 137 (OOMKilled)", Cause.CODE),
    "a node is killed": loss_case(failed(1, 137), "exited with code 137 (Error)", Cause.INFRASTRUCTURE),
    "a node is terminated": loss_case(failed(1, 143), "exited with code 143 (Error)", Cause.INFRASTRUCTURE),
}


def restarted(job: TorchrunJob, code: int) -> TorchrunJob:
    """Return the job with so many code restarts behind it."""
    status = job.status.model_copy(update={"restarts": Restarts(code=code)})
    return job.model_copy(update={"status": status})


CODE = tuple(failed(index, 1, message="ValueError") for index in range(3))
STARTING = tuple(make_node(index, Phase.STARTING) for index in range(3))

STARTS = {
    "a new job": Case(
        make_job(),
        Observed(token_digest=DIGEST),
        decision(create_rendezvous=True, create_nodes=(0, 1, 2)),
        "Pending",
        ("Valid",),
    ),
    "its pods wait for machines": Case(
        after(make_job(), Observed()),
        seen(*(make_node(index, Phase.PENDING) for index in range(3))),
        decision(target=target(size=2)),
        "Pending",
        ("Valid",),
    ),
    "its pods have machines": Case(
        after(make_job(), Observed()),
        seen(*STARTING),
        decision(),
        "Starting",
        ("Valid", "AllScheduled"),
    ),
    "one more has to be created": Case(
        after(make_job(), Observed()),
        seen(*STARTING[1:]),
        decision(create_nodes=(0,)),
        "Pending",
        ("Valid",),
    ),
    "the pods run, the round is open": Case(
        after(make_job(), seen(*STARTING)),
        seen(*THREE, rendezvous=make_rendezvous(*THREE[:2], round=0, complete=False)),
        decision(),
        "Starting",
        ("Valid", "AllScheduled"),
    ),
    "the round is complete": Case(
        after(make_job(), seen(*STARTING)),
        seen(*THREE, rendezvous=ALL),
        decision(),
        "Running",
        ("Valid", "AllScheduled", "Training"),
    ),
    "two of three train, which is MIN": Case(
        after(make_job(), seen(*STARTING)),
        seen(*THREE[:2], STARTING[2], rendezvous=make_rendezvous(*THREE[:2])),
        decision(),
        "Running",
        ("Valid", "AllScheduled", "Training"),
    ),
}

CHANGES = {
    "it has settled after a loss": Case(
        after(training_job(), seen(*without(THREE, 1), rendezvous=ALL)),
        seen(
            *instead(THREE, make_node(1, life=2)),
            rendezvous=make_rendezvous(*instead(THREE, make_node(1, life=2)), round=2),
        ),
        decision(),
        "Running",
        ("Valid", "AllScheduled", "Training"),
        Restarts(infrastructure=1),
        now=at(30),
    ),
    "fewer are wanted": Case(
        scaled(training_job(), 2),
        seen(*THREE, rendezvous=ALL),
        decision(
            deletions=(Deletion("digits-2", "pod-2-1", "spec.replicas asks for 2 nodes"),),
            target=target("10.0.1.2", size=2),
            events=(Event("NodeRemoved", "Pod digits-2 is removed: spec.replicas asks for 2 nodes"),),
            losses={Cause.RESIZE: 1},
        ),
        "Resizing",
        ("Valid", "AllScheduled", "Training", "ReplicasChanged"),
        Restarts(resize=1),
    ),
    "more are wanted": Case(
        scaled(training_job(), 4),
        seen(*THREE, rendezvous=ALL),
        decision(create_nodes=(3,), target=target(size=4), losses={Cause.RESIZE: 1}),
        "Resizing",
        ("Valid", "Training", "ReplicasChanged"),
        Restarts(resize=1),
    ),
    "a resize is counted once": Case(
        after(scaled(training_job(), 2), seen(*THREE, rendezvous=ALL)),
        seen(*THREE[:2], terminating(THREE[2]), rendezvous=ALL),
        decision(target=target("10.0.1.2", size=2)),
        "Running",
        ("Valid", "AllScheduled", "Training"),
        Restarts(resize=1),
    ),
    "the rendezvous pod is gone": Case(
        training_job(),
        seen(*THREE, rendezvous_pod=None),
        decision(create_rendezvous=True),
        "Resizing",
        ("Valid", "AllScheduled", "ReplicasChanged"),
    ),
    "and its agents have ended with it": Case(
        training_job(),
        seen(*CODE, rendezvous_pod=None),
        decision(
            create_rendezvous=True,
            deletions=tuple(
                Deletion(f"digits-{i}", f"pod-{i}-1", "exited with code 1 (Error): ValueError", 0) for i in range(3)
            ),
            target=target("10.0.1.0", "10.0.1.1", "10.0.1.2"),
            events=tuple(lost(i, "exited with code 1 (Error): ValueError", "infrastructure") for i in range(3)),
            losses={Cause.INFRASTRUCTURE: 3},
        ),
        "Resizing",
        ("Valid", "AllScheduled", "NodeLost"),
        Restarts(infrastructure=3),
    ),
    "the rendezvous pod has failed": Case(
        training_job(),
        seen(*THREE, rendezvous_pod=replace(HOST, phase=Phase.FAILED)),
        decision(deletions=(Deletion("digits-rdzv", "pod-rdzv", "it has ended", 0),)),
        "Resizing",
        ("Valid", "AllScheduled", "ReplicasChanged"),
    ),
    "the operator's key has changed": Case(
        training_job(),
        seen(*THREE, token_digest="other"),
        decision(deletions=(Deletion("digits-rdzv", "pod-rdzv", "the operator's key has changed"),)),
        "Resizing",
        ("Valid", "AllScheduled", "ReplicasChanged"),
    ),
    "workers fail": Case(
        training_job(),
        seen(*THREE, rendezvous=replace(ALL, unrequested=1, last_unrequested_at=NOW, complete=False, round=2)),
        decision(look_again_seconds=3.0),
        "Resizing",
        ("Valid", "AllScheduled", "RestartingWorkers"),
    ),
    "workers have failed": Case(
        training_job(),
        seen(
            *THREE,
            rendezvous=replace(
                ALL, unrequested=1, last_unrequested_at=NOW, last_unrequested_by=("10.0.1.2",), complete=False, round=2
            ),
        ),
        decision(
            events=(
                Event("WorkersFailed", "Workers failed and restart in place; first in pod digits-2", warning=True),
            ),
            losses={Cause.CODE: 1},
        ),
        "Resizing",
        ("Valid", "AllScheduled", "RestartingWorkers"),
        Restarts(code=1),
        now=at(3),
    ),
    "workers fail because a node was lost a while ago": Case(
        training_job(),
        seen(*without(THREE, 1), rendezvous=replace(ALL, unrequested=1, last_unrequested_at=at(-60))),
        decision(
            create_nodes=(1,),
            target=target("10.0.1.1"),
            events=(lost(1, "was deleted", "infrastructure"),),
            losses={Cause.INFRASTRUCTURE: 1},
        ),
        "Resizing",
        ("Valid", "Training", "NodeLost"),
        Restarts(infrastructure=1),
    ),
    "a failed node waits before it is replaced": Case(
        restarted(training_job(), 2),
        seen(*instead(THREE, failed(1, 3)), rendezvous=ALL),
        decision(
            target=target("10.0.1.1", size=2),
            events=(lost(1, "exited with code 3 (Error)", "code"),),
            look_again_seconds=2.0,
            losses={Cause.CODE: 1},
        ),
        "Resizing",
        ("Valid", "AllScheduled", "Training", "NodeLost"),
        Restarts(code=3),
    ),
    "and is replaced then": Case(
        after(restarted(training_job(), 2), seen(*instead(THREE, failed(1, 3)), rendezvous=ALL)),
        seen(*instead(THREE, failed(1, 3)), rendezvous=ALL),
        decision(
            target=target("10.0.1.1"),
            deletions=(Deletion("digits-1", "pod-1-1", "exited with code 3 (Error)", 0),),
        ),
        "Resizing",
        ("Valid", "AllScheduled", "Training", "NodeLost"),
        Restarts(code=3),
        now=at(2),
    ),
}

BROKEN = seen(DONE[0], failed(1, 137), THREE[2], rendezvous=replace(ALL, closed=True))

ENDS = {
    "maxRestarts is exceeded": Case(
        restarted(training_job(), 3),
        seen(*instead(THREE, failed(1, 3, message="ValueError: bad loss")), rendezvous=ALL),
        Decision(
            status=NOTHING,
            target=target("10.0.1.1", close=True),
            events=(lost(1, "exited with code 3 (Error): ValueError: bad loss", "code"),),
            losses={Cause.CODE: 1},
        ),
        "Failed",
        ("Valid", "AllScheduled", "MaxRestartsExceeded"),
        Restarts(code=4),
    ),
    "all succeed": Case(
        training_job(),
        seen(*DONE, rendezvous=replace(ALL, closed=True)),
        Decision(status=NOTHING),
        "Complete",
        ("Valid", "AllScheduled", "Finished"),
    ),
    "one has succeeded, others are about to": Case(
        training_job(),
        seen(*instead(THREE, DONE[0]), rendezvous=replace(ALL, closed=True)),
        decision(target=None),
        "Running",
        ("Valid", "AllScheduled", "Training"),
    ),
    "all succeed while a new node waits": Case(
        scaled(training_job(), 4),
        seen(*DONE, make_node(3, Phase.PENDING), rendezvous=replace(ALL, closed=True)),
        Decision(status=NOTHING, losses={Cause.RESIZE: 1}),
        "Complete",
        ("Valid", "Finished"),
        Restarts(resize=1),
    ),
    "one is lost after another has succeeded": Case(
        training_job(),
        BROKEN,
        decision(
            target=None,
            deletions=(
                Deletion("digits-rdzv", "pod-rdzv", START_OVER),
                Deletion("digits-0", "pod-0-1", START_OVER, 0),
                Deletion("digits-1", "pod-1-1", START_OVER, 0),
                Deletion("digits-2", "pod-2-1", START_OVER),
            ),
            events=(lost(1, "exited with code 137 (Error)", "infrastructure"),),
            losses={Cause.INFRASTRUCTURE: 1},
        ),
        "Resizing",
        ("Valid", "AllScheduled", "Training", "NodeLost"),
        Restarts(infrastructure=1),
    ),
    "and all start over": Case(
        after(
            training_job(), seen(*instead(DONE[:2] + THREE[2:], failed(1, 137)), rendezvous=replace(ALL, closed=True))
        ),
        seen(rendezvous=replace(ALL, closed=True)),
        decision(
            target=target("10.0.1.0", "10.0.1.1", "10.0.1.2"),
            deletions=(Deletion("digits-rdzv", "pod-rdzv", "it is closed"),),
        ),
        "Resizing",
        ("Valid", "NodeLost"),
        Restarts(infrastructure=1),
    ),
    "as soon as the old rendezvous is gone": Case(
        after(training_job(), BROKEN),
        seen(rendezvous_pod=replace(HOST, phase=Phase.TERMINATING)),
        decision(),
        "Resizing",
        ("Valid", "NodeLost"),
        Restarts(infrastructure=1),
    ),
    "with a new one": Case(
        after(training_job(), BROKEN),
        seen(rendezvous_pod=None),
        decision(create_rendezvous=True, create_nodes=(0, 1, 2)),
        "Resizing",
        ("Valid", "NodeLost"),
        Restarts(infrastructure=1),
    ),
    "it ended before any status told of ranks": Case(
        after(make_job(), seen(*STARTING)),
        seen(*DONE),
        Decision(status=NOTHING),
        "Complete",
        ("Valid", "AllScheduled", "Finished"),
    ),
}

PAUSES = {
    "it is suspended": Case(
        suspended(training_job()),
        seen(*THREE[:2], terminating(THREE[2]), rendezvous=ALL),
        Decision(
            status=NOTHING,
            deletions=(
                Deletion("digits-0", "pod-0-1", "spec.suspend is true"),
                Deletion("digits-1", "pod-1-1", "spec.suspend is true"),
                Deletion("digits-rdzv", "pod-rdzv", "spec.suspend is true"),
            ),
        ),
        "Suspended",
        ("Valid", "Suspending"),
    ),
    "its pods are gone": Case(
        after(suspended(training_job()), seen(*THREE, rendezvous=ALL)),
        Observed(),
        Decision(status=NOTHING),
        "Suspended",
        ("Valid", "Suspended"),
    ),
    "it is resumed": Case(
        suspended(after(suspended(training_job()), Observed()), suspend=False),
        Observed(token_digest=DIGEST),
        decision(create_rendezvous=True, create_nodes=(0, 1, 2)),
        "Pending",
        ("Valid",),
    ),
    "it is resumed while its old pods end": Case(
        suspended(after(suspended(training_job()), seen(*THREE)), suspend=False),
        seen(*map(terminating, THREE), rendezvous_pod=replace(HOST, phase=Phase.TERMINATING)),
        decision(target=target("10.0.1.0", "10.0.1.1", "10.0.1.2")),
        "Starting",
        ("Valid", "AllScheduled"),
    ),
}


def failed_job(now: datetime = NOW) -> TorchrunJob:
    nodes = instead(THREE, failed(1, 3))
    return stored(restarted(training_job(), 3), decide(restarted(training_job(), 3), seen(*nodes, rendezvous=ALL), now))


ENDED = "the job has ended"
AFTERWARDS = {
    "failed: its agents are told to leave": Case(
        failed_job(),
        seen(*instead(THREE, failed(1, 3)), make_node(3, Phase.PENDING), rendezvous=ALL),
        Decision(
            status=NOTHING,
            deletions=(Deletion("digits-3", "pod-3-1", ENDED),),
            target=target("10.0.1.1", close=True),
            look_again_seconds=5.0,
        ),
        "Failed",
        ("Valid", "AllScheduled", "MaxRestartsExceeded"),
        Restarts(code=4),
        now=at(59),
    ),
    "failed: those that did not leave are deleted": Case(
        failed_job(),
        seen(*instead(THREE, failed(1, 3)), rendezvous=ALL),
        Decision(
            status=NOTHING,
            deletions=(
                Deletion("digits-0", "pod-0-1", ENDED),
                Deletion("digits-2", "pod-2-1", ENDED),
                Deletion("digits-rdzv", "pod-rdzv", ENDED),
            ),
        ),
        "Failed",
        ("Valid", "AllScheduled", "MaxRestartsExceeded"),
        Restarts(code=4),
        now=at(60),
    ),
    "failed: nobody could tell them to leave": Case(
        failed_job(),
        seen(*instead(THREE, failed(1, 3)), rendezvous_pod=None),
        Decision(
            status=NOTHING,
            deletions=(Deletion("digits-0", "pod-0-1", ENDED), Deletion("digits-2", "pod-2-1", ENDED)),
        ),
        "Failed",
        ("Valid", "AllScheduled", "MaxRestartsExceeded"),
        Restarts(code=4),
        now=at(1),
    ),
    "failed: the host has not answered this operator yet": Case(
        failed_job(),
        seen(*instead(THREE, failed(1, 3))),
        Decision(status=NOTHING, target=target("10.0.1.1", close=True), look_again_seconds=5.0),
        "Failed",
        ("Valid", "AllScheduled", "MaxRestartsExceeded"),
        Restarts(code=4),
        now=at(1),
    ),
    "failed: all have left": Case(
        failed_job(),
        seen(*CODE, rendezvous=replace(ALL, closed=True)),
        Decision(status=NOTHING, deletions=(Deletion("digits-rdzv", "pod-rdzv", ENDED),)),
        "Failed",
        ("Valid", "AllScheduled", "MaxRestartsExceeded"),
        Restarts(code=4),
        now=at(2),
    ),
    "complete: what still runs ends, what has finished stays": Case(
        after(training_job(), seen(*DONE, rendezvous=ALL)),
        seen(*DONE, make_node(3, Phase.PENDING)),
        Decision(
            status=NOTHING,
            deletions=(Deletion("digits-3", "pod-3-1", ENDED), Deletion("digits-rdzv", "pod-rdzv", ENDED)),
        ),
        "Complete",
        ("Valid", "AllScheduled", "Finished"),
    ),
    "complete: suspending it changes nothing": Case(
        suspended(after(training_job(), seen(*DONE, rendezvous=ALL))),
        Observed(nodes=DONE),
        Decision(status=NOTHING),
        "Complete",
        ("Valid", "AllScheduled", "Finished"),
    ),
}

CASES = {**STARTS, **LOSSES, **CHANGES, **ENDS, **PAUSES, **AFTERWARDS}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_decide(case: Case) -> None:
    found = decide(case.job, case.observed, case.now)
    assert replace(found, status=NOTHING) == case.expected
    holds = tuple(c.reason for c in found.status.conditions if c.status is ConditionStatus.TRUE)
    assert (found.status.state, holds, found.status.restarts) == (case.state, case.true, case.restarts)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_deciding_again_on_the_written_status_counts_and_tells_nothing_new(case: Case) -> None:
    first = decide(case.job, case.observed, case.now)
    again = decide(stored(case.job, first), case.observed, case.now)
    assert (again.losses, [event for event in again.events if event.warning]) == ({}, [])
    assert again.status.restarts == first.status.restarts
    third = decide(stored(case.job, again), case.observed, case.now + timedelta(seconds=1))
    assert third.status == again.status


def messages(job: TorchrunJob, observed: Observed) -> dict[str, str]:
    return {c.type: c.message for c in decide(job, observed, NOW).status.conditions}


def test_failure_names_the_pod_its_words_and_the_count() -> None:
    job = restarted(training_job(maxRestarts=1), 1)
    found = messages(job, seen(*instead(THREE, failed(1, 3, message="ValueError: bad loss")), rendezvous=ALL))
    assert found[ConditionType.FAILED] == (
        "pod digits-1 exited with code 3 (Error): ValueError: bad loss; the code has failed 2 times and "
        "spec.maxRestarts is 1; see kubectl logs of that pod"
    )


def test_failure_of_workers_names_the_node() -> None:
    workers = replace(ALL, unrequested=3, last_unrequested_at=at(-5), last_unrequested_by=("10.0.1.2",))
    found = messages(training_job(maxRestarts=0), seen(*THREE, rendezvous=workers))
    assert found[ConditionType.FAILED] == (
        "workers failed, first in pod digits-2; the code has failed 3 times and spec.maxRestarts is 0; "
        "see kubectl logs of that pod"
    )


def test_failure_after_maxrestarts_was_lowered() -> None:
    found = messages(restarted(training_job(maxRestarts=1), 3), seen(*THREE, rendezvous=ALL))
    assert found[ConditionType.FAILED] == "the code has failed 3 times and spec.maxRestarts is 1"


def test_terminal_states_never_change() -> None:
    job = after(training_job(), seen(*DONE, rendezvous=ALL))
    for observed in (Observed(), seen(*THREE, rendezvous=ALL), seen(*CODE)):
        found = decide(scaled(suspended(job), 1), observed, at(100))
        assert (found.status.state, found.status.conditions, found.status.restarts, found.status.completion_time) == (
            "Complete",
            job.status.conditions,
            job.status.restarts,
            NOW,
        )


def test_a_new_pod_that_dies_at_once_is_not_replaced_before_five_seconds() -> None:
    young = failed(1, 128, "StartError", created_at=at(-1))
    young = replace(young, exit=Exit(128, "StartError", "", at(-1)))
    found = decide(training_job(), seen(*instead(THREE, young), rendezvous=ALL), NOW)
    assert (found.deletions, found.look_again_seconds) == ((), 4.0)


def test_since_is_when_the_host_was_first_seen() -> None:
    job = training_job(now=CREATED)
    assert job.status.rendezvous.since == CREATED
    other = replace(ALL, instance="bb", unrequested=0)
    found = decide(job, seen(*THREE, rendezvous=other), NOW).status.rendezvous
    assert (found.instance, found.unrequested, found.since) == ("bb", 0, NOW)
