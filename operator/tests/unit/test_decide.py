"""The decision while a job starts, loses nodes and changes, case by case."""

from dataclasses import replace
from typing import Any

import pytest

from builders import (
    COLD,
    CREATED,
    DIGEST,
    HOST,
    NOW,
    THREE,
    after,
    at,
    backing_off,
    decide,
    facts,
    failed,
    failing,
    instead,
    left,
    make_job,
    make_node,
    make_rendezvous,
    scaled,
    seen,
    terminating,
    training_job,
    without,
)
from decision_cases import (
    ALL,
    CODE,
    STARTING,
    Case,
    check_again,
    check_case,
    decision,
    lost,
    restarted,
    target,
)
from torchrun_operator.api.v1alpha1 import Restarts
from torchrun_operator.core.events import Event
from torchrun_operator.core.facts.model import Cause, Phase, Wait
from torchrun_operator.core.policies.plan import Deletion

CRASHED = replace(HOST, phase=Phase.STARTING, ready=False, wait=Wait("CrashLoopBackOff", "back-off"))
SILENCE = "Kubernetes node m1 is not ready: its kubelet is silent"


def loss_case(node: Any, what: str, cause: Cause, *, leavers: tuple[str, ...] = ("10.0.1.1",)) -> Case:
    """Return the case of a job of three nodes that trains and loses node 1. `node` is its pod."""
    nodes = instead(THREE, node) if node is not None else without(THREE, 1)
    dead = node is not None and node.phase in (Phase.FAILED, Phase.LOST)
    deletions = (Deletion("digits-1", "pod-1-1", node.trouble or what, 0),) if dead else ()
    expected = decision(
        create_nodes=(1,) if node is None else (),
        deletions=deletions,
        target=target(*leavers),
        events=(lost(1, what, cause),),
        restarts={cause: 1},
    )
    true = ("Valid", "AllScheduled", "Training", "NodeLost") if node is not None else ("Valid", "Training", "NodeLost")
    return Case(training_job(), seen(*nodes, rendezvous=ALL), expected, "Resizing", true, Restarts(**{str(cause): 1}))


LOSSES = {
    "a node is deleted": loss_case(None, "was deleted", Cause.INFRASTRUCTURE),
    "a node is being deleted": loss_case(terminating(THREE[1]), "is being deleted", Cause.INFRASTRUCTURE),
    "a node is preempted": loss_case(
        terminating(THREE[1], disruption="PreemptionByScheduler"),
        "is being evicted or preempted (PreemptionByScheduler)",
        Cause.PREEMPTION,
    ),
    "a node is evicted by its kubelet": loss_case(
        failed(1, -1, "Evicted", "disk", disruption="PreemptionByScheduler"), "failed: Evicted: disk", Cause.PREEMPTION
    ),
    "a node's code fails": loss_case(failed(1, 3), "exited with code 3 (Error)", Cause.CODE),
    "a node is out of memory": loss_case(failed(1, 137, "OOMKilled"), "exited with code 137 (OOMKilled)", Cause.CODE),
    "a node is killed": loss_case(failed(1, 137), "exited with code 137 (SIGKILL)", Cause.INFRASTRUCTURE),
    "a Kubernetes node is silent": loss_case(
        make_node(1, Phase.LOST, trouble=SILENCE),
        f"is lost: {SILENCE}",
        Cause.INFRASTRUCTURE,
    ),
    "a node is terminated": loss_case(failed(1, 143), "exited with code 143 (SIGTERM)", Cause.INFRASTRUCTURE),
}

STARTS = {
    "a new job": Case(
        make_job(),
        facts(token_digest=DIGEST),
        decision(create_rendezvous=True, create_nodes=(0, 1, 2), apply_services=False),
        "Pending",
        ("Valid",),
    ),
    "its pods are not scheduled": Case(
        after(make_job(), facts()),
        seen(*(make_node(index, Phase.PENDING) for index in range(3))),
        decision(target=target(size=2)),
        "Pending",
        ("Valid",),
    ),
    "its pods are scheduled": Case(
        after(make_job(), facts()),
        seen(*STARTING),
        decision(),
        "Starting",
        ("Valid", "AllScheduled"),
    ),
    "one more has to be created": Case(
        after(make_job(), facts()),
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
        decision(look_again_seconds=60.0),
        "Running",
        ("Valid", "AllScheduled", "Training"),
        Restarts(infrastructure=1),
        now=at(30),
    ),
    "fewer are wanted": Case(
        scaled(training_job(), 2),
        seen(*THREE, rendezvous=ALL),
        decision(
            deletions=(Deletion("digits-2", "pod-2-1", "the job wants 2 nodes", surplus=True),),
            target=target("10.0.1.2", size=2),
            events=(Event("NodeRemoved", "Pod digits-2 is removed: the job wants 2 nodes"),),
            restarts={Cause.RESIZE: 1},
        ),
        "Resizing",
        ("Valid", "AllScheduled", "Training", "ReplicasChanged"),
        Restarts(resize=1),
    ),
    "more are wanted": Case(
        scaled(training_job(), 4),
        seen(*THREE, rendezvous=ALL),
        decision(create_nodes=(3,), target=target(size=4), restarts={Cause.RESIZE: 1}),
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
        training_job(**COLD),
        seen(*THREE, rendezvous_pod=None),
        decision(create_rendezvous=True),
        "Resizing",
        ("Valid", "AllScheduled", "RestartingAllNodes"),
    ),
    "the rendezvous pod is gone and its agents have ended": Case(
        training_job(),
        seen(*CODE, rendezvous_pod=None),
        decision(
            create_rendezvous=True,
            deletions=tuple(
                Deletion(f"digits-{i}", f"pod-{i}-1", "exited with code 1 (Error): ValueError", 0) for i in range(3)
            ),
            target=target("10.0.1.0", "10.0.1.1", "10.0.1.2"),
            events=tuple(lost(i, "exited with code 1 (Error): ValueError", "infrastructure") for i in range(3)),
            restarts={Cause.INFRASTRUCTURE: 3},
        ),
        "Resizing",
        ("Valid", "AllScheduled", "RestartingAllNodes"),
        Restarts(infrastructure=3),
    ),
    "the Kubernetes node of the rendezvous pod is silent": Case(
        training_job(**COLD),
        seen(*THREE[:2], make_node(2, Phase.STARTING), rendezvous_pod=replace(HOST, phase=Phase.LOST, trouble=SILENCE)),
        decision(
            deletions=(
                *(Deletion(f"digits-{i}", f"pod-{i}-1", f"the rendezvous host is lost: {SILENCE}", 5) for i in (0, 1)),
                Deletion("digits-rdzv", "pod-rdzv", SILENCE, 0),
            ),
            restart_all=f"the rendezvous host is lost: {SILENCE}",
            restarts={Cause.INFRASTRUCTURE: 2},
        ),
        "Resizing",
        ("Valid", "AllScheduled", "RestartingAllNodes"),
        Restarts(infrastructure=2),
    ),
    "the rendezvous pod has failed": Case(
        training_job(**COLD),
        seen(*THREE, rendezvous_pod=replace(HOST, phase=Phase.FAILED)),
        decision(deletions=(Deletion("digits-rdzv", "pod-rdzv", "it has ended", 0),)),
        "Resizing",
        ("Valid", "AllScheduled", "RestartingAllNodes"),
    ),
    "the host has not answered a restarted operator yet": Case(
        training_job(),
        seen(*THREE),
        decision(),
        "Running",
        ("Valid", "AllScheduled", "Training"),
    ),
    "the operator's key has changed": Case(
        training_job(),
        seen(*THREE, token_digest="other"),
        decision(deletions=(Deletion("digits-rdzv", "pod-rdzv", "the operator's key has changed"),)),
        "Running",
        ("Valid", "AllScheduled", "Training"),
    ),
    "a kubelet would restart a host that fails again later and later": Case(
        training_job(**COLD),
        seen(*THREE, rendezvous_pod=CRASHED),
        decision(
            deletions=(
                Deletion("digits-rdzv", "pod-rdzv", "its kubelet would wait longer before each further restart"),
            )
        ),
        "Resizing",
        ("Valid", "AllScheduled", "RestartingAllNodes"),
    ),
    "it is replaced at most once a minute": Case(
        training_job(**COLD),
        seen(*THREE, rendezvous_pod=replace(CRASHED, started_at=at(-59))),
        decision(),
        "Resizing",
        ("Valid", "AllScheduled", "RestartingAllNodes"),
    ),
    "a host that never served stays for its log": Case(
        after(make_job(), seen(*THREE)),
        seen(*THREE, rendezvous_pod=CRASHED),
        decision(),
        "Starting",
        ("Valid", "AllScheduled"),
    ),
    "workers fail": Case(
        training_job(),
        seen(*THREE, rendezvous=left(ALL, 1, NOW, complete=False, round=2)),
        decision(look_again_seconds=3.0),
        "Resizing",
        ("Valid", "AllScheduled", "RestartingWorkers"),
    ),
    "workers have failed": Case(
        failing(training_job(), 0),
        seen(
            *THREE,
            rendezvous=left(ALL, 1, NOW, "10.0.1.2", complete=False, round=2),
        ),
        decision(
            events=(
                Event(
                    "WorkersFailed",
                    "Workers failed and restart in place; pod digits-2 failed first: a worker failed",
                    warning=True,
                ),
            ),
            restarts={Cause.CODE: 1},
        ),
        "Resizing",
        ("Valid", "AllScheduled", "RestartingWorkers"),
        Restarts(code=1),
        now=at(3),
    ),
    "workers fail because a node was lost a while ago": Case(
        training_job(),
        seen(*without(THREE, 1), rendezvous=left(ALL, 1, at(-60))),
        decision(
            create_nodes=(1,),
            target=target("10.0.1.1"),
            events=(lost(1, "was deleted", "infrastructure"),),
            restarts={Cause.INFRASTRUCTURE: 1},
        ),
        "Resizing",
        ("Valid", "Training", "NodeLost"),
        Restarts(infrastructure=1),
    ),
    "a node that fails soon after each start waits, and the others do not wait for it": Case(
        backing_off(training_job(), 1, 2),
        seen(*instead(THREE, failed(1, 3)), rendezvous=ALL),
        decision(
            target=target("10.0.1.1", size=2),
            events=(
                lost(
                    1,
                    "exited with code 3 (Error); 3 times in a row within a minute of the start, so its replacement "
                    "waits 10 s",
                    "code",
                ),
            ),
            look_again_seconds=10.0,
            restarts={Cause.CODE: 1},
        ),
        "Resizing",
        ("Valid", "AllScheduled", "Training", "NodeLost"),
        Restarts(code=1),
    ),
    "and is replaced then": Case(
        after(backing_off(training_job(), 1, 2), seen(*instead(THREE, failed(1, 3)), rendezvous=ALL)),
        seen(*instead(THREE, failed(1, 3)), rendezvous=ALL),
        decision(
            target=target("10.0.1.1"),
            deletions=(Deletion("digits-1", "pod-1-1", "exited with code 3 (Error)", 0),),
        ),
        "Resizing",
        ("Valid", "AllScheduled", "Training", "NodeLost"),
        Restarts(code=1),
        now=at(10),
    ),
    "a killed node is replaced at once, even if the pass that counted it stopped there": Case(
        after(restarted(training_job(), 3), seen(*instead(THREE, failed(1, 137)), rendezvous=ALL)),
        seen(*instead(THREE, failed(1, 137)), rendezvous=ALL),
        decision(
            target=target("10.0.1.1"),
            deletions=(Deletion("digits-1", "pod-1-1", "exited with code 137 (SIGKILL)", 0),),
        ),
        "Resizing",
        ("Valid", "AllScheduled", "Training", "NodeLost"),
        Restarts(code=3, infrastructure=1),
    ),
}

CASES = {**STARTS, **LOSSES, **CHANGES}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_decide(case: Case) -> None:
    check_case(case)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_deciding_again_on_the_written_status_changes_nothing(case: Case) -> None:
    check_again(case)


def test_since_is_when_the_host_was_first_seen() -> None:
    job = training_job(now=CREATED)
    assert job.status.rendezvous.since == CREATED
    other = replace(ALL, instance="bb")
    found = decide(job, seen(*THREE, rendezvous=other), NOW).status.rendezvous
    assert (found.instance, found.unrequested, found.since) == ("bb", 0, NOW)
