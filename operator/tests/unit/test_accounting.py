"""Each loss counts once, with its cause. Failures of workers that a lost node explains do not count again."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from builders import (
    CREATED,
    NOW,
    at,
    facts,
    failed,
    make_node,
    make_rendezvous,
    rejected,
    terminating,
)
from torchrun_operator.api.v1alpha1 import Failure, NodeStatus, RendezvousStatus
from torchrun_operator.core.facts.model import Cause, Exit, Facts, NodePod, Phase
from torchrun_operator.core.findings.causes import describe, signal_name
from torchrun_operator.core.findings.losses import Loss, code_failures, new_losses
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
    "its init container failed": (
        failed(1, 7, container="fetch-data", message="no bucket s3://data"),
        ("failed: container fetch-data exited with code 7 (Error): no bucket s3://data", Cause.CODE),
    ),
    "its init container was killed": (
        failed(1, 137, container="fetch-data"),
        ("failed: container fetch-data exited with code 137 (SIGKILL)", Cause.INFRASTRUCTURE),
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
    "no host answers, but the container is not the agent's": (
        failed(1, container="fetch-data"),
        HOST,
        None,
        Cause.CODE,
    ),
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
