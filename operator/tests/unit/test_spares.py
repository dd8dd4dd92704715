"""A job with a spare: which node it is, what its loss costs, which node takes over, and the end; case by case."""

from dataclasses import replace
from typing import Any

import pytest

from builders import (
    HOST,
    NOW,
    THREE,
    after,
    decide,
    facts,
    failed,
    instead,
    make_job,
    make_node,
    make_rendezvous,
    scaled,
    seen,
    suspended,
    terminating,
    without,
)
from decision_cases import Case, check_again, check_case, decision, doing, lost, target
from torchrun_operator.api.v1alpha1 import NodeStatus, Restarts, TorchrunJob
from torchrun_operator.core.events import Event
from torchrun_operator.core.facts.model import Cause, Facts, NodePod, Phase
from torchrun_operator.core.findings.completion import Completion, completion
from torchrun_operator.core.policies.plan import Deletion
from torchrun_rendezvous.protocol import RendezvousState

FOUR = (*THREE, make_node(3))
SPARE = FOUR[1]
MEMBERS = without(FOUR, 1)
"""Any index can be the spare."""
FULL = make_rendezvous(*MEMBERS, waiting=("10.0.1.1",))
RUNNING = ("Valid", "AllScheduled", "Training")
TOO_LATE = "the job is about to end; the operator replaces no more nodes"


def job(**spec: Any) -> TorchrunJob:
    """Return a job of three nodes and one spare without a status."""
    return make_job(elasticity={"spares": 1}, **spec)


def spared(nodes: tuple[NodePod, ...] = FOUR, rendezvous: RendezvousState = FULL, **spec: Any) -> TorchrunJob:
    """Return the job while it trains."""
    return after(job(**spec), seen(*nodes, rendezvous=rendezvous))


def spare_lost(what: str) -> Event:
    return Event("SpareLost", f"Spare node 1 (pod digits-1) {what}; training continues", warning=True)


CASES = {
    "a new job has one pod more than it trains with": Case(
        job(),
        facts(token_digest=HOST.token_digest),
        decision(create_rendezvous=True, create_nodes=(0, 1, 2, 3), apply_services=False),
        "Pending",
        ("Valid",),
    ),
    "three are in, the fourth is late: training has begun": Case(
        after(job(), seen(*FOUR)),
        seen(*instead(FOUR, make_node(1, Phase.PENDING)), rendezvous=make_rendezvous(*MEMBERS)),
        decision(),
        "Running",
        RUNNING,
    ),
    "it trains": Case(spared(), seen(*FOUR, rendezvous=FULL), decision(), "Running", RUNNING),
    "the spare fails": Case(
        spared(),
        seen(*instead(FOUR, failed(1, 3)), rendezvous=FULL),
        decision(
            target=target("10.0.1.1"),
            deletions=(Deletion("digits-1", "pod-1-1", "exited with code 3 (Error)", 0),),
            events=(spare_lost("exited with code 3 (Error)"),),
        ),
        "Running",
        RUNNING,
    ),
    "the spare is deleted": Case(
        spared(),
        seen(*MEMBERS, rendezvous=FULL),
        decision(create_nodes=(1,), target=target("10.0.1.1"), events=(spare_lost("was deleted"),)),
        "Running",
        RUNNING,
    ),
    "the spare fails before any status named it": Case(
        spared(MEMBERS, make_rendezvous(*MEMBERS)),
        seen(*instead(FOUR, failed(1, 3)), rendezvous=make_rendezvous(*MEMBERS)),
        decision(
            target=target("10.0.1.1"),
            deletions=(Deletion("digits-1", "pod-1-1", "exited with code 3 (Error)", 0),),
            events=(spare_lost("exited with code 3 (Error)"),),
        ),
        "Running",
        RUNNING,
    ),
    "the spare fails just after it joined a round": Case(
        spared(),
        seen(
            *instead(without(FOUR, 0), failed(1, 137)),
            rendezvous=make_rendezvous(failed(1, address="10.0.1.1"), *FOUR[2:], round=1),
        ),
        decision(
            create_nodes=(0,),
            target=target("10.0.1.1"),
            deletions=(Deletion("digits-1", "pod-1-1", "exited with code 137 (SIGKILL)", 0),),
            events=(
                lost(0, "was deleted", "infrastructure"),
                lost(1, "exited with code 137 (SIGKILL)", "infrastructure"),
            ),
            restarts={Cause.INFRASTRUCTURE: 2},
        ),
        "Resizing",
        ("Valid", "AllScheduled", "Training", "NodeLost"),
        Restarts(infrastructure=2),
    ),
    "a member is lost: the size stays, because there is a spare": Case(
        spared(),
        seen(*without(FOUR, 2), rendezvous=FULL),
        decision(
            create_nodes=(2,),
            target=target("10.0.1.2"),
            events=(lost(2, "was deleted", "infrastructure"),),
            restarts={Cause.INFRASTRUCTURE: 1},
        ),
        "Resizing",
        ("Valid", "AllScheduled", "Training", "NodeLost"),
        Restarts(infrastructure=1),
    ),
    "the spare has taken over, and the replacement is not scheduled": Case(
        after(spared(), seen(*without(FOUR, 2), rendezvous=FULL)),
        seen(
            *instead(FOUR, make_node(2, Phase.PENDING, life=2)),
            rendezvous=make_rendezvous(*without(FOUR, 2), round=1),
        ),
        decision(),
        "Running",
        RUNNING,
        Restarts(infrastructure=1),
    ),
    "more are wanted: the spare is one of them": Case(
        scaled(spared(), 4),
        seen(*FOUR, rendezvous=FULL),
        decision(create_nodes=(4,), target=target(size=4), restarts={Cause.RESIZE: 1}),
        "Resizing",
        ("Valid", "AllScheduled", "Training", "ReplicasChanged"),
        Restarts(resize=1),
    ),
    "fewer are wanted, and the spare's index goes": Case(
        scaled(spared(FOUR, make_rendezvous(*THREE)), 2),
        seen(*FOUR, rendezvous=make_rendezvous(*THREE)),
        decision(
            target=target("10.0.1.2", "10.0.1.3", size=2),
            deletions=(Deletion("digits-3", "pod-3-1", "the job wants 2 nodes and 1 spare", surplus=True),),
            events=(Event("NodeRemoved", "Pod digits-3 is removed: the job wants 2 nodes and 1 spare"),),
            restarts={Cause.RESIZE: 1},
        ),
        "Resizing",
        ("Valid", "AllScheduled", "Training", "ReplicasChanged"),
        Restarts(resize=1),
    ),
    "a member has finished: the spare goes": Case(
        spared(),
        seen(*FOUR, rendezvous=replace(FULL, finished=1)),
        decision(target=None, deletions=(Deletion("digits-1", "pod-1-1", TOO_LATE),)),
        "Running",
        RUNNING,
    ),
    "all members have succeeded, and the spare's agent failed because of that": Case(
        spared(),
        seen(
            *(make_node(i, Phase.SUCCEEDED) for i in (0,)),
            failed(1),
            *(make_node(i, Phase.SUCCEEDED) for i in (2, 3)),
            rendezvous=replace(FULL, closed=True),
        ),
        doing(events=(spare_lost("exited with code 1 (Error)"),)),
        "Complete",
        ("Valid", "AllScheduled", "Finished"),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_decide(case: Case) -> None:
    check_case(case)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_deciding_again_on_the_written_status_changes_nothing(case: Case) -> None:
    check_again(case)


def test_a_complete_job_keeps_the_pods_of_its_members_alone() -> None:
    done = tuple(make_node(i, Phase.SUCCEEDED) for i in (0, 2, 3))
    observed = seen(done[0], failed(1), *done[1:], rendezvous=replace(FULL, closed=True))
    ended = after(spared(), observed)
    assert ended.status.state == "Complete"
    gone = decide(ended, observed, NOW)
    assert [d.name for d in gone.plan.deletions] == ["digits-1", "digits-rdzv"]
    final = after(ended, seen(*done, rendezvous_pod=None)).status
    assert [(node.index, node.phase) for node in final.nodes] == [(0, "Succeeded"), (2, "Succeeded"), (3, "Succeeded")]


def spares(observed: Facts, before: TorchrunJob | None = None) -> list[int]:
    """Return the indices of the nodes that the status calls spares."""
    return [node.index for node in after(before or job(), observed).status.nodes if node.spare]


@pytest.mark.parametrize(
    ("observed", "before", "expected"),
    [
        (seen(*FOUR), None, []),
        (seen(*FOUR, rendezvous=make_rendezvous(*MEMBERS, complete=False)), None, []),
        (seen(*FOUR, rendezvous=FULL), None, [1]),
        (seen(*FOUR, rendezvous=make_rendezvous(*FOUR[:2])), None, []),
        (seen(*FOUR, rendezvous=make_rendezvous(complete=False, round=1)), spared(), [1]),
        (seen(*FOUR, rendezvous=make_rendezvous(*FOUR[:3], round=1)), spared(), [3]),
        (seen(*MEMBERS, rendezvous=FULL), spared(), [1]),
    ],
    ids=["no host", "no round", "a full round", "a small one", "between rounds", "another round", "it has just gone"],
)
def test_who_is_a_spare(observed: Facts, before: TorchrunJob | None, expected: list[int]) -> None:
    assert spares(observed, before) == expected


def test_without_spares_a_node_that_came_late_is_none() -> None:
    status = after(make_job(), seen(*FOUR[:3], rendezvous=make_rendezvous(*THREE[:2]))).status
    assert [node.spare for node in status.nodes] == [None, None, None]
    assert status.membership.spares is None


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        (seen(*FOUR, rendezvous=FULL), 1),
        (seen(*FOUR, rendezvous=make_rendezvous(*MEMBERS)), 0),
        (seen(*instead(FOUR, terminating(SPARE)), rendezvous=FULL), 0),
        (seen(*FOUR, rendezvous=make_rendezvous(*THREE[:2], waiting=("10.0.1.2", "10.0.1.3"))), 0),
        (seen(*FOUR), 0),
    ],
    ids=["it waits", "its agent has not come yet", "it is being deleted", "the round has room for it", "no host"],
)
def test_spares_that_are_ready(observed: Facts, expected: int) -> None:
    assert after(job(), observed).status.membership.spares == expected


def test_the_scale_subresource_counts_nodes_without_spares() -> None:
    status = spared().status
    assert (status.replicas, status.ready_replicas, status.membership.desired_nodes) == (3, 3, 3)
    assert status.membership.summary == "3/2:4"


def test_a_suspended_job_keeps_no_spare() -> None:
    paused = decide(suspended(spared()), seen(*FOUR, rendezvous=FULL), NOW)
    assert [d.name for d in paused.plan.deletions] == ["digits-0", "digits-1", "digits-2", "digits-3", "digits-rdzv"]
    assert paused.status.membership.spares == 0


def test_an_unscheduled_spare_is_reported_and_does_not_delay_the_job() -> None:
    status = after(job(), seen(*instead(FOUR, make_node(1, Phase.PENDING)))).status
    scheduled = next(c for c in status.conditions if c.type == "Scheduled")
    assert (scheduled.status, scheduled.message) == ("True", "all 3 node pods are scheduled, and 0 of 1 spare")


DONE = tuple(make_node(i, Phase.SUCCEEDED) for i in range(4))
ENDS: dict[str, tuple[TorchrunJob, tuple[NodePod, ...], Completion]] = {
    "quick, no status had ranks": (
        after(job(), seen(*FOUR)),
        instead(DONE, failed(1)),
        Completion(finishing=True, complete=True),
    ),
    "quick, and a member failed": (
        after(job(), seen(*FOUR)),
        instead(instead(DONE, failed(1)), failed(2)),
        Completion(finishing=True, broken=True),
    ),
    "a member is lost while all end: the spare does not help": (
        spared(),
        (DONE[0], SPARE, DONE[2]),
        Completion(finishing=True, broken=True),
    ),
}


@pytest.mark.parametrize(("before", "nodes", "expected"), ENDS.values(), ids=ENDS)
def test_completion(before: TorchrunJob, nodes: tuple[NodePod, ...], expected: Completion) -> None:
    closed = make_rendezvous(closed=True)
    assert completion(facts(job=before, nodes=nodes, rendezvous_pod=HOST, rendezvous=closed), 3) == expected


def test_a_status_without_the_field_says_nothing_of_spares() -> None:
    assert NodeStatus(index=0, pod="digits-0").spare is None
