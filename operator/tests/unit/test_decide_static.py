"""The decision about static jobs, case by case."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from builders import (
    NOW,
    after,
    at,
    backing_off,
    facts,
    failed,
    failing,
    instead,
    make_job,
    make_node,
    terminating,
    without,
)
from decision_cases import Case, check_again, check_case, doing, lost
from torchrun_operator.api.lead import LeadPod
from torchrun_operator.api.v1alpha1 import Restarts, TorchrunJob
from torchrun_operator.core.events import Event
from torchrun_operator.core.facts.model import Cause, Facts, NodePod, Phase
from torchrun_operator.core.facts.together import with_static_round
from torchrun_operator.core.policies.plan import Deletion

SPEC: dict[str, Any] = {"nnodes": 3, "replicas": 3, "rendezvous": {"backend": "static"}}
LEAD = LeadPod("pod-0-1", "10.0.1.0")
NODES = tuple(make_node(index, lead="pod-0-1" if index else "") for index in range(3))
DONE = tuple(replace(node, phase=Phase.SUCCEEDED) for node in NODES)
RESTART = ("Valid", "AllScheduled", "RestartingAllNodes")
TRAINS = ("Valid", "AllScheduled", "Training")
KILLED = "exited with code 137 (SIGKILL)"


def static_job(**spec: Any) -> TorchrunJob:
    return make_job(**{**SPEC, **spec})


def seen(job: TorchrunJob, *nodes: NodePod) -> Facts:
    """Return the facts about a static job with these pods."""
    return with_static_round(facts(job=job, nodes=nodes))


def running(**spec: Any) -> TorchrunJob:
    """Return a static job whose three nodes run."""
    job = static_job(**spec)
    return after(job, seen(job, *NODES), NOW - timedelta(minutes=5))


def case(job: TorchrunJob, nodes: tuple[NodePod, ...], **parts: Any) -> Case:
    """Return a case of that job with these pods. ``plan`` adds to what a static job always does."""
    expected = doing(**{"apply_objects": True, "apply_services": True, **parts.pop("plan", {})})
    return Case(job, seen(job, *nodes), expected, **parts)


def ends(why: str, *indices: int, grace: int | None = 1, **others: int | None) -> tuple[Deletion, ...]:
    """Return the deletions of the nodes, with that grace period or with another one, such as ``node2=0``."""
    graces = {index: others.get(f"node{index}", grace) for index in indices}
    return tuple(Deletion(f"digits-{i}", f"pod-{i}-1", why, seconds) for i, seconds in graces.items())


def ended_(node: NodePod) -> NodePod:
    """Return the pod while it is being deleted, after its containers have ended."""
    return replace(terminating(node), over=True)


def loss_case(node: NodePod | None, what: str, cause: Cause, *, grace: int | None = 1) -> Case:
    """Return the case of a job that loses node 1. ``node`` is its pod."""
    nodes = instead(NODES, replace(node, lead="pod-0-1")) if node is not None else without(NODES, 1)
    why = f"pod digits-1 {what}"
    gone = node is not None and node.phase in (Phase.FAILED, Phase.LOST)
    return case(
        running(),
        nodes,
        plan={
            "deletions": ends(why, *((0, 1, 2) if gone else (0, 2)), grace=grace, node1=0),
            "restart_all": why,
            "restarts": {cause: 1},
            **({"look_again_seconds": 10.0} if node is not None and node.phase is Phase.TERMINATING else {}),
        },
        state="Resizing",
        true=RESTART if node is not None else ("Valid", "RestartingAllNodes"),
        restarts=Restarts(**{str(cause): 1}),
    )


LOSSES = {
    "a node is deleted": loss_case(None, "was deleted", Cause.INFRASTRUCTURE),
    "a node is killed": loss_case(failed(1, 137), KILLED, Cause.INFRASTRUCTURE),
    "a node is out of its Kubernetes node": loss_case(
        make_node(1, Phase.LOST, trouble="Kubernetes node m1 was removed from the cluster"),
        "is lost: Kubernetes node m1 was removed from the cluster",
        Cause.INFRASTRUCTURE,
    ),
    "a node is preempted, and the others get as much time": loss_case(
        terminating(NODES[1], disruption="PreemptionByScheduler", stop_requested_at=NOW, grace_seconds=30),
        "is being evicted or preempted (PreemptionByScheduler)",
        Cause.PREEMPTION,
        grace=None,
    ),
}
STARTS = {
    "a new job": case(static_job(), (), plan={"create_nodes": (0,)}, state="Pending", true=("Valid",)),
    "the lead has no address yet": case(
        static_job(), (make_node(0, Phase.STARTING),), plan={}, state="Pending", true=("Valid",)
    ),
    "the lead has an address": case(
        static_job(), NODES[:1], plan={"create_nodes": (1, 2), "lead": LEAD}, state="Pending", true=("Valid",)
    ),
    "one more has to be created": case(
        static_job(), without(NODES, 1), plan={"create_nodes": (1,), "lead": LEAD}, state="Pending", true=("Valid",)
    ),
    "one of them starts": case(
        static_job(),
        instead(NODES, make_node(2, Phase.STARTING, lead="pod-0-1")),
        state="Starting",
        true=("Valid", "AllScheduled"),
    ),
    "all run": case(static_job(), NODES, state="Running", true=TRAINS),
    "a pod of an earlier round is still there": case(
        static_job(),
        instead(NODES, make_node(1, life=1, lead="pod-0-0")),
        plan={"deletions": ends("its round has ended", 1)},
        state="Starting",
        true=("Valid", "AllScheduled"),
    ),
    "a node fails before the others run": case(
        static_job(),
        instead(NODES[:2], failed(0, 137)),
        plan={
            "deletions": ends(f"pod digits-0 {KILLED}", 0, 1, node0=0),
            "create_nodes": (0,),
            "events": (lost(0, KILLED, "infrastructure"),),
            "restarts": {Cause.INFRASTRUCTURE: 1},
        },
        state="Pending",
        true=("Valid",),
        restarts=Restarts(infrastructure=1),
    ),
}

CHANGES = {
    "a failure of the code waits for other reports": case(
        running(),
        instead(NODES, failed(1, 1, lead="pod-0-1")),
        plan={"look_again_seconds": 3.0},
        state="Resizing",
        true=("Valid", "AllScheduled", "NodeLost"),
    ),
    "and counts then": case(
        failing(running()),
        instead(NODES, failed(1, 1, lead="pod-0-1")),
        plan={
            "deletions": ends("pod digits-1 exited with code 1 (Error)", 0, 1, 2, node1=0),
            "restart_all": "pod digits-1 exited with code 1 (Error)",
            "restarts": {Cause.CODE: 1},
        },
        state="Resizing",
        true=RESTART,
        restarts=Restarts(code=1),
    ),
    "it does not wait if no other node runs: the first to end has failed": case(
        running(),
        tuple(
            replace(failed(i, 1, lead="pod-0-1" if i else ""), exit=replace(failed(i).exit, finished_at=at(-i)))  # type: ignore[type-var]
            for i in range(3)
        ),
        plan={
            "deletions": ends("pod digits-2 exited with code 1 (Error)", 0, 1, 2, grace=0),
            "create_nodes": (0,),
            "restart_all": "pod digits-2 exited with code 1 (Error)",
            "restarts": {Cause.CODE: 1},
        },
        state="Resizing",
        true=RESTART,
        restarts=Restarts(code=1),
    ),
    "a killed node explains those that failed": case(
        running(),
        (failed(0, 1), failed(1, 137, lead="pod-0-1"), NODES[2]),
        plan={
            "deletions": ends(f"pod digits-1 {KILLED}", 0, 1, 2, node0=0, node1=0),
            "create_nodes": (0,),
            "restart_all": f"pod digits-1 {KILLED}",
            "restarts": {Cause.INFRASTRUCTURE: 1},
        },
        state="Resizing",
        true=RESTART,
        restarts=Restarts(infrastructure=1),
    ),
    "the lead is gone, and the next one starts in the same pass": case(
        running(),
        NODES[1:],
        plan={
            "deletions": ends("pod digits-0 was deleted", 1, 2),
            "create_nodes": (0,),
            "restart_all": "pod digits-0 was deleted",
            "restarts": {Cause.INFRASTRUCTURE: 1},
        },
        state="Resizing",
        true=("Valid", "RestartingAllNodes"),
        restarts=Restarts(infrastructure=1),
    ),
    "finalizers keep the pod of the lead, and its name": case(
        running(),
        instead(NODES, failed(0, 137, finalizers=("team/keep",))),
        plan={
            "deletions": ends(f"pod digits-0 {KILLED}", 0, 1, 2, node0=0),
            "restart_all": f"pod digits-0 {KILLED}",
            "restarts": {Cause.INFRASTRUCTURE: 1},
        },
        state="Resizing",
        true=RESTART,
        restarts=Restarts(infrastructure=1),
    ),
    "the lead has ended: its name is free, and the next one starts": case(
        after(running(), seen(running(), *instead(NODES, failed(1, 137, lead="pod-0-1")))),
        (ended_(NODES[0]), terminating(NODES[2])),
        plan={
            "deletions": ends(f"pod digits-1 failed: {KILLED}", 0, grace=0),
            "create_nodes": (0,),
            "restart_all": f"pod digits-1 failed: {KILLED}",
        },
        state="Resizing",
        true=("Valid", "RestartingAllNodes"),
        restarts=Restarts(infrastructure=1),
    ),
    "others have ended: their names are free for the next lead's nodes": case(
        after(running(), seen(running(), *instead(NODES, failed(1, 137, lead="pod-0-1")))),
        (make_node(0, life=2), *(ended_(node) for node in NODES[1:])),
        plan={
            "deletions": ends("its round has ended", 1, 2, grace=0),
            "create_nodes": (1, 2),
            "lead": LeadPod("pod-0-2", "10.0.2.0"),
            "look_again_seconds": 60.0,
        },
        state="Resizing",
        true=RESTART,
        restarts=Restarts(infrastructure=1),
    ),
    "the code fails too often": case(
        failing(running(maxRestarts=0)),
        instead(NODES, failed(1, 1, lead="pod-0-1")),
        plan={"apply_objects": False, "apply_services": False, "restarts": {Cause.CODE: 1}},
        state="Failed",
        true=("Valid", "AllScheduled", "MaxRestartsExceeded"),
        restarts=Restarts(code=1),
    ),
    "a loss soon after the start, again: all wait, and the log of the failed node stays": case(
        failing(backing_off(running(), 0, 2)),
        instead(NODES, failed(1, 1, lead="pod-0-1")),
        plan={
            "deletions": ends("pod digits-1 exited with code 1 (Error)", 0, 2),
            "restart_all": "pod digits-1 exited with code 1 (Error)",
            "restarts": {Cause.CODE: 1},
            "look_again_seconds": 10.0,
        },
        state="Resizing",
        true=RESTART,
        restarts=Restarts(code=1),
    ),
    "a restarted operator ends the nodes that the status says must end": case(
        after(running(), seen(running(), *instead(NODES, failed(1, 137, lead="pod-0-1")))),
        without(NODES, 1),
        plan={
            "deletions": ends(f"pod digits-1 failed: {KILLED}", 0, 2),
            "restart_all": f"pod digits-1 failed: {KILLED}",
            "look_again_seconds": 60.0,
        },
        state="Resizing",
        true=("Valid", "RestartingAllNodes"),
        restarts=Restarts(infrastructure=1),
    ),
    "the lead is gone, and the others end still": case(
        after(running(), seen(running(), *instead(NODES, failed(1, 137, lead="pod-0-1")))),
        tuple(terminating(node) for node in NODES[1:]),
        plan={"create_nodes": (0,)},
        state="Resizing",
        true=("Valid", "RestartingAllNodes"),
        restarts=Restarts(infrastructure=1),
    ),
    "one has succeeded": case(running(), instead(NODES, DONE[0]), state="Running", true=TRAINS),
    "a node is lost after another has succeeded": case(
        running(),
        (DONE[0], failed(1, 137, lead="pod-0-1"), NODES[2]),
        plan={
            "deletions": ends(f"pod digits-1 {KILLED}", 0, 1, 2, node0=0, node1=0),
            "create_nodes": (0,),
            "restart_all": f"pod digits-1 {KILLED}",
            "restarts": {Cause.INFRASTRUCTURE: 1},
        },
        state="Resizing",
        true=RESTART,
        restarts=Restarts(infrastructure=1),
    ),
}
COMPLETE = ("Valid", "AllScheduled", "Finished")
ENDS = {
    "all have succeeded": Case(running(), seen(running(), *DONE), doing(), "Complete", COMPLETE),
    "the lead has succeeded, which does not suffice": case(
        running(), (DONE[0], *NODES[1:]), state="Running", true=TRAINS
    ),
    "the lead has succeeded, which suffices": Case(
        running(completionPolicy="Lead"),
        seen(running(completionPolicy="Lead"), DONE[0], NODES[1], failed(2, 1, lead="pod-0-1")),
        doing(),
        "Complete",
        COMPLETE,
    ),
    "all but the lead have succeeded": case(
        running(completionPolicy="Lead"), (NODES[0], *DONE[1:]), state="Running", true=TRAINS
    ),
    "pods of an earlier round do not complete it": case(
        static_job(),
        (DONE[0], *(replace(node, lead="pod-0-0") for node in DONE[1:])),
        plan={
            "deletions": ends("its round has ended", 1, 2, grace=0),
            "create_nodes": (1, 2),
            "lead": LEAD,
        },
        state="Starting",
        true=("Valid", "AllScheduled"),
    ),
}
CASES = {**STARTS, **LOSSES, **CHANGES, **ENDS}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_decide(case: Case) -> None:
    check_case(case)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_deciding_again_on_the_written_status_changes_nothing(case: Case) -> None:
    check_again(case)


def test_the_event_of_a_loss_before_all_nodes_ran_names_it() -> None:
    event = STARTS["a node fails before the others run"].expected.events[0]
    assert event == Event("NodeLost", f"Node 0 (pod digits-0) {KILLED}; cause: infrastructure", warning=True)
