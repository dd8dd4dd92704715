"""Each loss counts once, with its cause. Failures of workers that a lost node explains do not count again."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from builders import (
    CREATED,
    NOW,
    THREE,
    at,
    facts,
    failed,
    instead,
    left,
    make_node,
    make_rendezvous,
    rejected,
    seen,
    terminating,
    training_job,
)
from torchrun_operator.api.v1alpha1 import Failure, NodeStatus, RendezvousStatus, TorchrunJob
from torchrun_operator.core.facts.model import Cause, Exit, Facts, NodePod, Phase
from torchrun_operator.core.findings.causes import describe, signal_name
from torchrun_operator.core.findings.find import find
from torchrun_operator.core.findings.losses import Loss, code_failures, new_losses
from torchrun_operator.core.findings.workers import WorkerFailures
from torchrun_rendezvous.protocol import RendezvousState

HOST_SINCE = CREATED + timedelta(minutes=1)
HOST = RendezvousStatus(instance="aa", since=HOST_SINCE)
NEW_HOST = replace(make_rendezvous(), instance="bb")

Counted = tuple[str, Cause] | None

FATES: dict[str, tuple[NodePod | None, Counted]] = {
    "still there": (make_node(1), None),
    "succeeded": (make_node(1, Phase.SUCCEEDED), None),
    "waits": (make_node(1, Phase.PENDING), None),
    "gone": (None, ("was deleted", Cause.INFRASTRUCTURE)),
    "replaced by another pod": (make_node(1, life=2), ("was deleted", Cause.INFRASTRUCTURE)),
    "being deleted": (terminating(make_node(1)), ("is being deleted", Cause.INFRASTRUCTURE)),
    "being evicted": (
        terminating(make_node(1), disruption="PreemptionByScheduler"),
        ("is being evicted or preempted (PreemptionByScheduler)", Cause.PREEMPTION),
    ),
    "deleted with its Kubernetes node": (
        terminating(make_node(1), disruption="DeletionByPodGC"),
        ("is being deleted", Cause.INFRASTRUCTURE),
    ),
    "failed with its Kubernetes node": (
        failed(1, -1, "Failed", disruption="DeletionByPodGC"),
        ("failed: Failed", Cause.INFRASTRUCTURE),
    ),
    "its Kubernetes node is silent": (
        replace(make_node(1, Phase.LOST), trouble="Kubernetes node m1 is not ready: its kubelet is silent"),
        ("is lost: Kubernetes node m1 is not ready: its kubelet is silent", Cause.INFRASTRUCTURE),
    ),
    "evicted": (
        failed(1, -1, "Evicted", "The node was low on memory.", disruption="PreemptionByScheduler"),
        ("failed: Evicted: The node was low on memory.", Cause.PREEMPTION),
    ),
    "preempted with an exit code": (
        failed(1, 143, disruption="PreemptionByScheduler"),
        ("exited with code 143 (SIGTERM)", Cause.PREEMPTION),
    ),
    "its code failed": (
        failed(1, 1, message="\n  ValueError: bad loss\nmore"),
        ("exited with code 1 (Error): ValueError: bad loss", Cause.CODE),
    ),
    "its command is missing": (
        failed(1, 128, "StartError", "exec: torchrun: not found"),
        ("exited with code 128 (StartError): exec: torchrun: not found", Cause.CODE),
    ),
    "out of memory": (failed(1, 137, "OOMKilled"), ("exited with code 137 (OOMKilled)", Cause.CODE)),
    "killed": (failed(1, 137), ("exited with code 137 (SIGKILL)", Cause.INFRASTRUCTURE)),
    "terminated": (failed(1, 143), ("exited with code 143 (SIGTERM)", Cause.INFRASTRUCTURE)),
    "its Kubernetes node shuts down": (
        rejected(1, "Terminated", code=0),
        ("exited with code 0 (Terminated)", Cause.INFRASTRUCTURE),
    ),
    "its Kubernetes node was restarted": (
        failed(1, 255, "Unknown"),
        ("exited with code 255 (Unknown)", Cause.INFRASTRUCTURE),
    ),
    "its kubelet rejects it": (
        rejected(1, "UnexpectedAdmissionError", "no GPU left"),
        ("failed: UnexpectedAdmissionError: no GPU left", Cause.INFRASTRUCTURE),
    ),
    "failed, with an unknown exit code": (make_node(1, Phase.FAILED), ("failed", Cause.INFRASTRUCTURE)),
}


def recorded(phase: str = Phase.RUNNING, index: int = 1) -> NodeStatus:
    return NodeStatus(index=index, pod=f"digits-{index}", uid=f"pod-{index}-1", phase=phase)


def picture(node: NodePod | None, rendezvous: RendezvousState | None = None) -> Facts:
    return facts(nodes=(node,) if node is not None else (), rendezvous=rendezvous or make_rendezvous())


@pytest.mark.parametrize(("node", "expected"), FATES.values(), ids=FATES)
def test_loss_of_a_live_node(node: NodePod | None, expected: Counted) -> None:
    losses = new_losses([recorded()], picture(node), 3, HOST)
    exit_ = node.exit if node is not None and node.phase is Phase.FAILED else None
    seen = node is not None and node.uid == "pod-1-1"
    where: dict[str, Any] = {"machine": "machine-1", "created_at": CREATED} if seen else {}
    assert losses == ((Loss(1, "digits-1", expected[1], expected[0], exit_, **where),) if expected else ())


@pytest.mark.parametrize("phase", ["Terminating", "Failed", "Succeeded", "Lost"])
@pytest.mark.parametrize(("node", "_expected"), FATES.values(), ids=FATES)
def test_a_node_that_the_status_records_as_lost_is_not_counted_again(
    phase: str, node: NodePod | None, _expected: Counted
) -> None:
    assert new_losses([recorded(phase)], picture(node), 3, HOST) == ()


def test_a_pod_that_failed_before_any_status_named_it_is_counted() -> None:
    ended = failed(1, 3)
    expected = Loss(
        1, "digits-1", Cause.CODE, "exited with code 3 (Error)", ended.exit, machine="machine-1", created_at=CREATED
    )
    assert new_losses([], picture(ended), 3, HOST) == (expected,)
    assert new_losses([recorded("Lost")], picture(failed(1, 3, life=2)), 3, HOST) == (
        replace(expected, exit=failed(1, 3).exit),
    )
    assert new_losses([], picture(ended), 1, HOST) == ()


def test_surplus_nodes_leave_and_are_not_lost() -> None:
    assert new_losses([recorded()], picture(None), 1, HOST) == ()


def old(node: NodePod, ended: float = 0.0) -> NodePod:
    """Return the failed node as one that is older than the rendezvous host and ended that long after its start."""
    exit_ = replace(node.exit or Exit(1, "", "", None), finished_at=HOST_SINCE + timedelta(seconds=ended))
    return replace(node, exit=exit_)


STORE: dict[str, tuple[NodePod, RendezvousStatus, RendezvousState | None, Cause]] = {
    "no host answers": (failed(1), HOST, None, Cause.INFRASTRUCTURE),
    "another host answers": (failed(1), HOST, NEW_HOST, Cause.INFRASTRUCTURE),
    "no host answers, but the code is not the agent's": (failed(1, 2), HOST, None, Cause.CODE),
    "there has been no host yet": (failed(1), RendezvousStatus(), None, Cause.INFRASTRUCTURE),
    "there has been no host yet, but the code is not the agent's": (failed(1, 2), RendezvousStatus(), None, Cause.CODE),
    "ended soon after a new host was seen": (old(failed(1), 29), HOST, make_rendezvous(), Cause.INFRASTRUCTURE),
    "ended after it had waited for a silent store": (old(failed(1), 66), HOST, make_rendezvous(), Cause.INFRASTRUCTURE),
    "ended long after": (old(failed(1), 91), HOST, make_rendezvous(), Cause.CODE),
    "created after the new host": (
        old(failed(1, created_at=HOST_SINCE), 5),
        HOST,
        make_rendezvous(),
        Cause.CODE,
    ),
    "its end is unknown": (
        replace(failed(1), exit=Exit(1, "Error", "", None)),
        HOST,
        make_rendezvous(),
        Cause.INFRASTRUCTURE,
    ),
}


@pytest.mark.parametrize(("node", "host", "rendezvous", "cause"), STORE.values(), ids=STORE)
def test_agents_that_end_with_their_store(
    node: NodePod, host: RendezvousStatus, rendezvous: RendezvousState | None, cause: Cause
) -> None:
    observed = facts(nodes=(node,), rendezvous=rendezvous)
    assert [loss.cause for loss in new_losses([recorded()], observed, 3, host)] == [cause]


@pytest.mark.parametrize(
    ("rank", "code", "closed", "cause"),
    [
        (None, 1, True, Cause.INFRASTRUCTURE),
        (None, 2, True, Cause.CODE),
        (None, 1, False, Cause.CODE),
        (1, 1, True, Cause.CODE),
    ],
    ids=["came too late", "its own fault", "the rendezvous is open", "was a member"],
)
def test_an_agent_that_comes_after_the_rendezvous_was_closed(
    rank: int | None, code: int, closed: bool, cause: Cause
) -> None:
    node = recorded().model_copy(update={"rank": rank})
    observed = picture(failed(1, code), replace(make_rendezvous(), closed=closed))
    assert [loss.cause for loss in new_losses([node], observed, 3, HOST)] == [cause]


BY = ("10.0.1.2",)
TRAINED = training_job()
ROUND_4 = make_rendezvous(*THREE, round=4)


def counted(count: int, failing: float | None = None, lost_round: int | None = None) -> TorchrunJob:
    """Return a job whose status has counted that many failures, and has known a further one that long after NOW."""
    since = at(failing) if failing is not None else None
    recorded = RendezvousStatus(
        instance="aa", unrequested=count, since=HOST_SINCE, failing_since=since, lost_round=lost_round
    )
    membership = TRAINED.status.membership.model_copy(update={"round": 4})
    status = TRAINED.status.model_copy(update={"rendezvous": recorded, "membership": membership})
    return TRAINED.model_copy(update={"status": status})


def reported(count: int, skew: float = 0.0, number: int = 4, **changes: Any) -> RendezvousState:
    """Return the state of a host that has counted that many failures, the last one in that round, by its own clock."""
    state = left(replace(ROUND_4, round=number), count, at(skew), "10.0.1.2")
    return replace(state, **{"round": number + 1, "complete": False, "members": (), **changes})


LOST = instead(THREE, failed(1, 137))
SPARE_LOST = (*THREE, failed(3, 137, address="10.0.1.3"))
FAILURES: dict[str, tuple[TorchrunJob, tuple[NodePod, ...], RendezvousState | None, float, WorkerFailures]] = {
    # name: (job, nodes, rendezvous, now, expected)
    "no host": (counted(2), THREE, None, 0, WorkerFailures(0, 2)),
    "no host, after it reported a failure": (counted(2, 0), THREE, None, 9, WorkerFailures(0, 2, at(0))),
    "nothing new": (counted(2), THREE, reported(2), 0, WorkerFailures(0, 2)),
    "seen for the first time": (counted(2), THREE, reported(3), 7, WorkerFailures(0, 2, at(7))),
    "seen for the first time, long ago by the host's clock": (
        counted(2),
        THREE,
        reported(3, -3600),
        0,
        WorkerFailures(0, 2, at(0)),
    ),
    "waits for news of a node": (counted(2, 0), THREE, reported(3), 2.9, WorkerFailures(0, 2, at(0))),
    "settled": (counted(2, 0), THREE, reported(3), 3, WorkerFailures(1, 3, by=BY)),
    "settled, in an hour by the host's clock": (
        counted(2, 0),
        THREE,
        reported(3, 3600),
        3,
        WorkerFailures(1, 3, by=BY),
    ),
    "settled, though the workers have failed again since": (
        counted(2, 0),
        THREE,
        reported(5, 2.9, number=6),
        3,
        WorkerFailures(3, 5, by=BY),
    ),
    "settled, after the operator's clock was set back": (
        counted(2, 3600),
        THREE,
        reported(3),
        0,
        WorkerFailures(1, 3, by=BY),
    ),
    "explained by the loss of a member, seen first": (
        counted(2, lost_round=4),
        THREE,
        reported(3),
        20,
        WorkerFailures(0, 3, lost_round=4),
    ),
    "explained by the loss of a member, seen last": (
        counted(2, 0),
        LOST,
        reported(3),
        2,
        WorkerFailures(0, 3, lost_round=4),
    ),
    "explained by the loss of a member that is seen late": (
        counted(2, 0),
        LOST,
        reported(3),
        3600,
        WorkerFailures(0, 3, lost_round=4),
    ),
    "not explained by a loss in an earlier round": (
        counted(2, 0, lost_round=3),
        THREE,
        reported(3),
        3,
        WorkerFailures(1, 3, by=BY, lost_round=3),
    ),
    "not explained by the loss of a node that was no member": (
        counted(2, 0),
        SPARE_LOST,
        reported(3),
        3,
        WorkerFailures(1, 3, by=BY),
    ),
    "a member is lost, and no workers have failed yet": (
        counted(2),
        LOST,
        left(ROUND_4, 2, at(0)),
        0,
        WorkerFailures(0, 2, lost_round=4),
    ),
    "a member is lost, and the others have left the round already": (
        counted(2),
        LOST,
        replace(left(ROUND_4, 2, at(0)), round=5, complete=False, members=()),
        0,
        WorkerFailures(0, 2, lost_round=4),
    ),
    "a member must leave": (
        counted(2),
        (*THREE[:2], terminating(THREE[2])),
        left(ROUND_4, 2, at(0)),
        0,
        WorkerFailures(0, 2, lost_round=4),
    ),
    "a new host starts from nothing": (
        counted(7, -60),
        THREE,
        reported(1, instance="bb"),
        3,
        WorkerFailures(0, 0, at(3)),
    ),
    "a new host has nothing yet": (
        counted(7, -60, lost_round=4),
        THREE,
        replace(ROUND_4, instance="bb"),
        3,
        WorkerFailures(0, 0),
    ),
}


@pytest.mark.parametrize(("job", "nodes", "rendezvous", "now", "expected"), FAILURES.values(), ids=FAILURES)
def test_worker_failures(
    job: TorchrunJob,
    nodes: tuple[NodePod, ...],
    rendezvous: RendezvousState | None,
    now: float,
    expected: WorkerFailures,
) -> None:
    assert find(seen(*nodes, job=job, rendezvous=rendezvous, now=at(now))).workers == expected


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (None, "failed"),
        (Exit(-1, "Evicted", "", NOW), "failed: Evicted"),
        (Exit(3, "Error", "", NOW), "exited with code 3 (Error)"),
        (Exit(3, "Error", "\n  first  \nsecond", NOW), "exited with code 3 (Error): first"),
        (Exit(139, "Error", "", NOW), "exited with code 139 (SIGSEGV)"),
        (Exit(137, "OOMKilled", "", NOW), "exited with code 137 (OOMKilled)"),
        (Exit(255, "", "", NOW), "exited with code 255"),
        (
            Exit(1, "Error", '{"message": {"message": "ValueError: bad", "extraInfo": {}}}', NOW),
            "exited with code 1 (Error): ValueError: bad",
        ),
        (Exit(3, "Error", "x" * 400, NOW), "exited with code 3 (Error): " + "x" * 300),
    ],
)
def test_describe(ended: Exit | None, words: str) -> None:
    assert describe(ended) == words


def code_loss(index: int, ended: float, created: float = -600.0, cause: Cause = Cause.CODE) -> Loss:
    """Return a node with these seconds from NOW to its end and to its creation."""
    return Loss(index, f"digits-{index}", cause, "", Exit(1, "Error", "", at(ended)), created_at=at(created))


LAST = Failure(time=NOW, cause=Cause.CODE)
CODE_FAILURES: dict[str, tuple[tuple[Loss, ...], Failure | None, int]] = {
    "none": ((), LAST, 0),
    "of another cause": ((code_loss(0, 60, cause=Cause.INFRASTRUCTURE),), None, 0),
    "one": ((code_loss(0, 0),), None, 1),
    "three nodes in one moment": ((code_loss(0, 0), code_loss(1, 1), code_loss(2, 2)), None, 1),
    "seen later, but of the same moment": ((code_loss(1, 2), code_loss(2, 10)), LAST, 0),
    "seen later, ended earlier": ((code_loss(1, -3),), LAST, 0),
    "later": ((code_loss(1, 11),), LAST, 1),
    "by a pod created since": ((code_loss(1, 3, created=1),), LAST, 1),
    "one of the same moment, one by a pod created since": ((code_loss(0, 3), code_loss(1, 3, created=1)), LAST, 1),
    "the last failure was not the code's": ((code_loss(1, 2),), Failure(time=NOW, cause=Cause.PREEMPTION), 1),
    "its end is unknown": ((replace(code_loss(1, 2), exit=Exit(1, "Error", "", None)),), LAST, 1),
}


@pytest.mark.parametrize(("losses", "last", "expected"), CODE_FAILURES.values(), ids=CODE_FAILURES)
def test_code_failures(losses: tuple[Loss, ...], last: Failure | None, expected: int) -> None:
    assert code_failures(losses, last) == expected


@pytest.mark.parametrize(
    ("code", "name"), [(137, "SIGKILL"), (-9, "SIGKILL"), (139, "SIGSEGV"), (1, ""), (0, ""), (255, ""), (-1000, "")]
)
def test_signal_name(code: int, name: str) -> None:
    assert signal_name(code) == name
