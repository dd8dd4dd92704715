"""What the API server writes of pods becomes the frozen picture."""

from datetime import UTC, datetime
from typing import Any

import pytest

from torchrun_operator.core.observe import observe
from torchrun_operator.core.observed import Exit, NodePod, Observed, Phase, Rendezvous, RendezvousPod

JOB = "job-uid"
CREATED = datetime(2026, 1, 31, 11, 0, 0, tzinfo=UTC)
STARTED = datetime(2026, 1, 31, 11, 0, 2, tzinfo=UTC)


def pod(name: str = "digits-1", *, role: str = "node", index: str = "1", owner: str = JOB, **parts: Any) -> Any:
    """Return a pod as the API server writes it; parts: metadata, spec, status."""
    metadata = {
        "name": name,
        "uid": f"uid-{name}",
        "creationTimestamp": "2026-01-31T11:00:00Z",
        "labels": {"torchrun.dev/job-name": "digits", "torchrun.dev/role": role, "torchrun.dev/node-index": index},
        "ownerReferences": [{"kind": "TorchrunJob", "name": "digits", "uid": owner, "controller": True}],
    }
    return {
        "metadata": {**metadata, **parts.get("metadata", {})},
        "spec": {"nodeName": "m1", **parts.get("spec", {})},
        "status": parts.get("status", {}),
    }


def trainer(**state: Any) -> list[Any]:
    return [{"name": "sidecar", "state": {"terminated": {"exitCode": 3}}}, {"name": "trainer", "state": state}]


def node(phase: Phase, **changes: Any) -> NodePod:
    defaults: dict[str, Any] = {"machine": "m1", "scheduled": True, "created_at": CREATED}
    return NodePod(1, "digits-1", "uid-digits-1", phase, **{**defaults, **changes})


UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 have a GPU"}
DISRUPTED = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
DELETED = {"deletionTimestamp": "2026-01-31T11:30:00Z"}
ENDED_AT = datetime(2026, 1, 31, 11, 20, 5, tzinfo=UTC)

NODES: dict[str, tuple[Any, NodePod]] = {
    "just created": (
        pod(spec={"nodeName": None}),
        node(Phase.PENDING, machine=None, scheduled=False),
    ),
    "without a place": (
        pod(spec={"nodeName": ""}, status={"phase": "Pending", "conditions": [UNSCHEDULABLE]}),
        node(
            Phase.PENDING,
            machine="",
            scheduled=False,
            waiting_reason="Unschedulable",
            waiting_message="0/3 have a GPU",
        ),
    ),
    "pulls its image": (
        pod(
            status={
                "phase": "Pending",
                "startTime": "2026-01-31T11:00:02Z",
                "containerStatuses": trainer(waiting={"reason": "ContainerCreating"}),
            }
        ),
        node(Phase.STARTING, started_at=STARTED),
    ),
    "cannot pull its image": (
        pod(
            status={
                "phase": "Pending",
                "podIP": "10.0.0.9",
                "containerStatuses": trainer(waiting={"reason": "ErrImagePull", "message": "no such image"}),
            }
        ),
        node(Phase.STARTING, address="10.0.0.9", waiting_reason="ErrImagePull", waiting_message="no such image"),
    ),
    "an init container waits": (
        pod(
            status={
                "phase": "Pending",
                "initContainerStatuses": [{"name": "fetch", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}],
                "containerStatuses": trainer(waiting={"reason": "PodInitializing"}),
            }
        ),
        node(Phase.STARTING, waiting_reason="CrashLoopBackOff"),
    ),
    "runs": (
        pod(status={"phase": "Running", "podIP": "10.0.0.9", "containerStatuses": trainer(running={})}),
        node(Phase.RUNNING, address="10.0.0.9"),
    ),
    "is being deleted": (
        pod(metadata=DELETED, status={"phase": "Running", "podIP": "10.0.0.9"}),
        node(Phase.TERMINATING, address="10.0.0.9"),
    ),
    "is being preempted": (
        pod(metadata=DELETED, status={"phase": "Running", "podIP": "10.0.0.9", "conditions": [DISRUPTED]}),
        node(Phase.TERMINATING, address="10.0.0.9", disrupted=True),
    ),
    "failed while it was being deleted": (
        pod(metadata=DELETED, status={"phase": "Failed", "containerStatuses": trainer(terminated={"exitCode": 1})}),
        node(Phase.TERMINATING, exit=Exit(1, "", "", None)),
    ),
    "succeeded, and is being deleted": (
        pod(
            metadata=DELETED,
            status={
                "phase": "Succeeded",
                "containerStatuses": trainer(terminated={"exitCode": 0, "reason": "Completed"}),
            },
        ),
        node(Phase.SUCCEEDED, exit=Exit(0, "Completed", "", None)),
    ),
    "failed with the worker's words": (
        pod(
            status={
                "phase": "Failed",
                "containerStatuses": trainer(
                    terminated={
                        "exitCode": 1,
                        "reason": "Error",
                        "message": "ValueError: bad loss\n",
                        "finishedAt": "2026-01-31T11:20:05Z",
                    }
                ),
            }
        ),
        node(Phase.FAILED, exit=Exit(1, "Error", "ValueError: bad loss", ENDED_AT)),
    ),
    "ended by its machine's shutdown": (
        pod(
            status={
                "phase": "Failed",
                "reason": "Terminated",
                "message": "Pod was terminated in response to imminent node shutdown.",
                "containerStatuses": trainer(terminated={"exitCode": 0, "reason": "Completed"}),
            }
        ),
        node(
            Phase.FAILED,
            exit=Exit(0, "Terminated", "Pod was terminated in response to imminent node shutdown.", None),
        ),
    ),
    "evicted before it ran": (
        pod(status={"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}),
        node(
            Phase.FAILED,
            disrupted=True,
            exit=Exit(-1, "Evicted", "The node was low on resource: memory.", None),
        ),
    ),
    "a sidecar failed, the trainer never ran": (
        pod(status={"phase": "Failed"}),
        node(Phase.FAILED, exit=Exit(-1, "Failed", "", None)),
    ),
}


@pytest.mark.parametrize(("raw", "expected"), NODES.values(), ids=NODES)
def test_node_pod(raw: Any, expected: NodePod) -> None:
    assert observe(JOB, [raw], None) == Observed(nodes=(expected,))


def test_picture_of_a_whole_job() -> None:
    ready = {"type": "Ready", "status": "True"}
    digest = {"annotations": {"torchrun.dev/token-digest": "abc"}}
    host = pod(
        "digits-rdzv",
        role="rendezvous",
        metadata=digest | {"labels": {"torchrun.dev/role": "rendezvous"}},
        status={"phase": "Running", "startTime": "2026-01-31T11:00:02Z", "podIP": "10.0.0.5", "conditions": [ready]},
    )
    pods = [
        pod("digits-10", index="10", status={"phase": "Running"}),
        pod("digits-2", index="2", status={"phase": "Running"}),
        host,
        pod("digits-0", index="0", owner="another job"),
        pod("bare", metadata={"ownerReferences": None}),
        pod("odd", index="x"),
    ]
    state = Rendezvous("aa", 1, complete=False, closed=False)
    found = observe(JOB, pods, state, token_digest="abc")
    running = NodePod(2, "digits-2", "uid-digits-2", Phase.RUNNING, machine="m1", scheduled=True, created_at=CREATED)
    assert found == Observed(
        nodes=(
            running,
            NodePod(10, "digits-10", "uid-digits-10", Phase.RUNNING, machine="m1", scheduled=True, created_at=CREATED),
        ),
        rendezvous_pod=RendezvousPod(
            "digits-rdzv",
            "uid-digits-rdzv",
            Phase.RUNNING,
            address="10.0.0.5",
            ready=True,
            token_digest="abc",
            started_at=STARTED,
        ),
        rendezvous=state,
        token_digest="abc",
        foreign=("bare", "digits-0"),
    )


def test_pod_without_status_or_labels_of_its_own() -> None:
    raw = pod()
    del raw["status"]
    assert observe(JOB, [raw], None).nodes == (node(Phase.STARTING),)


def test_words_are_bounded() -> None:
    long = {"exitCode": 1, "reason": "Error", "message": "x" * 5000 + "the end"}
    raw = pod(status={"phase": "Failed", "containerStatuses": trainer(terminated=long)})
    ended = observe(JOB, [raw], None).nodes[0].exit
    assert ended is not None
    assert (len(ended.message), ended.message[-7:]) == (2000, "the end")
