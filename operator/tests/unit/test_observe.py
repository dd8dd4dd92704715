"""Facts from pods and Kubernetes nodes as the API server writes them."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from builders import NOW, facts, make_job
from torchrun_operator.core.facts.hearing import Hearing
from torchrun_operator.core.facts.machines import Machines, troubles
from torchrun_operator.core.facts.model import Exit, NodePod, Phase, RendezvousPod, Wait
from torchrun_operator.core.facts.pods import gather
from torchrun_rendezvous.protocol import Member, RendezvousState

JOB = "job-uid"
CREATED = datetime(2026, 1, 31, 11, 0, 0, tzinfo=UTC)
STARTED = datetime(2026, 1, 31, 11, 0, 2, tzinfo=UTC)


def pod(name: str = "digits-1", *, role: str = "node", index: str = "1", owner: str = JOB, **parts: Any) -> Any:
    """Return a pod as the API server writes it. Parts: metadata, spec, status."""
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


def beside_proxy(**state: Any) -> list[Any]:
    return [{"name": "proxy", "state": {"running": {}}}, {"name": "trainer", "state": state}]


def trainer(**state: Any) -> list[Any]:
    return [{"name": "sidecar", "state": {"terminated": {"exitCode": 3}}}, {"name": "trainer", "state": state}]


def node(phase: Phase, **changes: Any) -> NodePod:
    defaults: dict[str, Any] = {"machine": "m1", "scheduled": True, "created_at": CREATED}
    return NodePod(1, "digits-1", "uid-digits-1", phase, **{**defaults, **changes})


UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 have a GPU"}
DISRUPTED = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
DELETED = {"deletionTimestamp": "2026-01-31T11:30:00Z", "deletionGracePeriodSeconds": 30}
STOPPED = datetime(2026, 1, 31, 11, 29, 30, tzinfo=UTC)
ENDED_AT = datetime(2026, 1, 31, 11, 20, 5, tzinfo=UTC)

INIT_FAILED = {"exitCode": 7, "reason": "Error", "message": "no bucket\n", "finishedAt": "2026-01-31T11:20:05Z"}

NODES: dict[str, tuple[Any, NodePod]] = {
    "just created": (
        pod(spec={"nodeName": None}),
        node(Phase.PENDING, machine=None, scheduled=False),
    ),
    "not scheduled": (
        pod(spec={"nodeName": ""}, status={"phase": "Pending", "conditions": [UNSCHEDULABLE]}),
        node(
            Phase.PENDING,
            machine="",
            scheduled=False,
            wait=Wait("Unschedulable", "0/3 have a GPU"),
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
        node(Phase.STARTING, address="10.0.0.9", wait=Wait("ErrImagePull", "no such image", "trainer")),
    ),
    "an init container waits": (
        pod(
            status={
                "phase": "Pending",
                "initContainerStatuses": [{"name": "fetch", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}],
                "containerStatuses": trainer(waiting={"reason": "PodInitializing"}),
            }
        ),
        node(Phase.STARTING, wait=Wait("CrashLoopBackOff", container="fetch")),
    ),
    "runs": (
        pod(status={"phase": "Running", "podIP": "10.0.0.9", "containerStatuses": trainer(running={})}),
        node(Phase.RUNNING, address="10.0.0.9"),
    ),
    "is being deleted": (
        pod(metadata=DELETED, status={"phase": "Running", "podIP": "10.0.0.9"}),
        node(Phase.TERMINATING, address="10.0.0.9", stop_requested_at=STOPPED, grace_seconds=30),
    ),
    "is being preempted": (
        pod(metadata=DELETED, status={"phase": "Running", "podIP": "10.0.0.9", "conditions": [DISRUPTED]}),
        node(
            Phase.TERMINATING,
            address="10.0.0.9",
            stop_requested_at=STOPPED,
            grace_seconds=30,
            disruption="PreemptionByScheduler",
        ),
    ),
    "failed while it was being deleted": (
        pod(metadata=DELETED, status={"phase": "Failed", "containerStatuses": trainer(terminated={"exitCode": 1})}),
        node(Phase.TERMINATING, stop_requested_at=STOPPED, grace_seconds=30, exit=Exit(1, "", "", None), over=True),
    ),
    "succeeded, and is being deleted": (
        pod(
            metadata=DELETED,
            status={
                "phase": "Succeeded",
                "containerStatuses": trainer(terminated={"exitCode": 0, "reason": "Completed"}),
            },
        ),
        node(
            Phase.SUCCEEDED, stop_requested_at=STOPPED, grace_seconds=30, exit=Exit(0, "Completed", "", None), over=True
        ),
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
    "ended by the shutdown of its Kubernetes node": (
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
            exit=Exit(0, "Terminated", "Pod was terminated in response to imminent node shutdown.", None, of_pod=True),
        ),
    ),
    "evicted before it ran": (
        pod(status={"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}),
        node(
            Phase.FAILED,
            disruption="Evicted",
            exit=Exit(-1, "Evicted", "The node was low on resource: memory.", None, of_pod=True),
        ),
    ),
    "its trainer has failed, a sidecar runs on": (
        pod(
            status={
                "phase": "Running",
                "containerStatuses": beside_proxy(terminated={"exitCode": 3, "reason": "Error"}),
            }
        ),
        node(Phase.FAILED, exit=Exit(3, "Error", "", None), lingers=True),
    ),
    "its trainer has succeeded, a sidecar runs on": (
        pod(status={"phase": "Running", "containerStatuses": beside_proxy(terminated={"exitCode": 0})}),
        node(Phase.SUCCEEDED, exit=Exit(0, "", "", None), lingers=True),
    ),
    "its trainer has failed, its kubelet is about to say so": (
        pod(status={"phase": "Running", "containerStatuses": trainer(terminated={"exitCode": 3, "reason": "Error"})}),
        node(Phase.FAILED, exit=Exit(3, "Error", "", None)),
    ),
    "a disruption that did not happen": (
        pod(status={"phase": "Running", "conditions": [{**DISRUPTED, "status": "False"}]}),
        node(Phase.RUNNING),
    ),
    "failed, for no known reason": (
        pod(status={"phase": "Failed"}),
        node(Phase.FAILED, exit=Exit(-1, "Failed", "", None)),
    ),
    "an init container failed": (
        pod(
            status={
                "phase": "Failed",
                "initContainerStatuses": [
                    {"name": "unpack", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
                    {"name": "fetch-data", "state": {"terminated": INIT_FAILED}},
                ],
                "containerStatuses": trainer(waiting={"reason": "PodInitializing"}),
            }
        ),
        node(Phase.FAILED, exit=Exit(7, "Error", "no bucket", ENDED_AT, container="fetch-data")),
    ),
    "a sidecar failed, the trainer never ran": (
        pod(
            status={
                "phase": "Failed",
                "containerStatuses": [
                    {
                        "name": "trainer",
                        "state": {"waiting": {"reason": "CreateContainerError", "message": "no device"}},
                    },
                    {"name": "proxy", "state": {"terminated": {"exitCode": 2, "reason": "Error"}}},
                ],
            }
        ),
        node(
            Phase.FAILED,
            exit=Exit(2, "Error", "", None, container="proxy"),
            wait=Wait("CreateContainerError", "no device", "trainer"),
        ),
    ),
}


@pytest.mark.parametrize(("raw", "expected"), NODES.values(), ids=NODES)
def test_node_pod(raw: Any, expected: NodePod) -> None:
    assert gather(make_job(), NOW, [raw], None) == facts(nodes=(expected,))


RUNS: Any = {"phase": "Running", "podIP": "10.0.0.9"}
SILENT_KUBELET: Any = {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}
OFF: Any = {"spec": {"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]}}
SILENCE = "Kubernetes node m1 is not ready: its kubelet is silent"
IS_OFF = "Kubernetes node m1 is off: it has the taint node.kubernetes.io/out-of-service"
GONE = "Kubernetes node m1 was removed from the cluster"
DONE: Any = {"phase": "Succeeded"}
HEARD = RendezvousState("aa", round=1, complete=True, closed=False, members=(Member("10.0.0.9", 0),), silent=())
TOLD: dict[str, RendezvousState | None] = {
    "heard": HEARD,
    "waiting": RendezvousState("aa", round=1, complete=False, closed=False, waiting=("10.0.0.9",), silent=()),
    "silent": replace(HEARD, silent=("10.0.0.9",)),
    "no member": replace(HEARD, members=()),
    "the host does not say who is silent": replace(HEARD, silent=None),
    "no host": None,
}
LISTENED = Hearing(connected_seconds=60.0)
DEAF = Hearing(attempts=9, host_seconds=60.0)
MACHINES: dict[str, tuple[Any, Any, str, Phase, str]] = {
    # name: the Kubernetes node, the pod's status, the state document, the phase, why
    "ready": ({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, RUNS, "silent", Phase.RUNNING, ""),
    "not ready, says its kubelet": (
        {"status": {"conditions": [{"type": "Ready", "status": "False"}]}},
        RUNS,
        "silent",
        Phase.RUNNING,
        "",
    ),
    "cordoned, or tainted otherwise": (
        {"spec": {"unschedulable": True, "taints": [{"key": "gpu", "effect": "NoExecute"}]}},
        RUNS,
        "silent",
        Phase.RUNNING,
        "",
    ),
    "silent, its agent is heard": (SILENT_KUBELET, RUNS, "heard", Phase.RUNNING, ""),
    "silent, its agent waits": (SILENT_KUBELET, RUNS, "waiting", Phase.RUNNING, ""),
    "silent, and so is its agent": (SILENT_KUBELET, RUNS, "silent", Phase.LOST, SILENCE),
    "silent, its agent is in no round": (SILENT_KUBELET, RUNS, "no member", Phase.LOST, SILENCE),
    "silent, the host names no silent agents": (
        SILENT_KUBELET,
        RUNS,
        "the host does not say who is silent",
        Phase.RUNNING,
        "",
    ),
    "silent, no host answers": (SILENT_KUBELET, RUNS, "no host", Phase.LOST, SILENCE),
    "silent, its pod had succeeded": (SILENT_KUBELET, DONE, "no host", Phase.SUCCEEDED, ""),
    "off, whatever is heard": (OFF, RUNS, "heard", Phase.LOST, IS_OFF),
    "removed, its agent is heard": (None, RUNS, "heard", Phase.RUNNING, ""),
    "removed": (None, RUNS, "silent", Phase.LOST, GONE),
}


@pytest.mark.parametrize(("machine", "status", "told", "phase", "why"), MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("metadata", [{}, DELETED], ids=["", "being deleted"])
def test_pods_of_kubernetes_nodes_in_trouble(
    machine: Any, status: Any, told: str, phase: Phase, why: str, metadata: Any
) -> None:
    raw = pod(status=status, metadata=metadata)
    if metadata and phase is Phase.RUNNING:
        phase = Phase.TERMINATING
    state = TOLD[told]
    hearing = LISTENED if state is not None else DEAF
    (found,) = gather(
        make_job(), NOW, [raw], state, machines=Machines({"m1": machine}, any_ready=True), hearing=hearing
    ).nodes
    assert (found.phase, found.trouble) == (phase, why)


@pytest.mark.parametrize(
    ("machine", "state", "phase", "why"),
    [
        (SILENT_KUBELET, HEARD, Phase.RUNNING, ""),
        (SILENT_KUBELET, None, Phase.LOST, SILENCE),
        (OFF, HEARD, Phase.LOST, IS_OFF),
        (None, None, Phase.LOST, GONE),
    ],
    ids=["it answers", "it does not answer", "off, whatever answers", "removed"],
)
def test_rendezvous_pod_of_a_kubernetes_node_in_trouble(
    machine: Any, state: RendezvousState | None, phase: Phase, why: str
) -> None:
    pods = [pod(role="rendezvous", status=RUNS)]
    machines = Machines({"m1": machine}, any_ready=True)
    found = gather(
        make_job(), NOW, pods, state, machines=machines, hearing=DEAF if state is None else LISTENED
    ).rendezvous_pod
    assert found is not None
    assert (found.phase, found.trouble) == (phase, why)


def test_unknown_kubernetes_nodes_change_nothing() -> None:
    assert (
        gather(make_job(), NOW, [pod(status=RUNS)], None, machines=Machines({}, any_ready=True)).nodes[0].phase
        is Phase.RUNNING
    )


def test_picture_of_a_whole_job() -> None:
    ready = {"type": "ContainersReady", "status": "True"}
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
    state = RendezvousState("aa", round=1, complete=False, closed=False)
    found = gather(make_job(), NOW, pods, state, token_digest="abc")
    running = NodePod(2, "digits-2", "uid-digits-2", Phase.RUNNING, machine="m1", scheduled=True, created_at=CREATED)
    assert found == facts(
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
    assert gather(make_job(), NOW, [raw], None).nodes == (node(Phase.STARTING),)


def test_words_are_bounded() -> None:
    long = {"exitCode": 1, "reason": "Error", "message": "x" * 9000 + "the end"}
    raw = pod(status={"phase": "Failed", "containerStatuses": trainer(terminated=long)})
    ended = gather(make_job(), NOW, [raw], None).nodes[0].exit
    assert ended is not None
    assert (len(ended.message), ended.message[-7:]) == (4096, "the end")


def test_nothing_is_concluded_while_no_kubernetes_node_is_ready() -> None:
    """The API server is then cut off from all of them."""
    silent = {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}
    for known in ({"m1": silent}, {"m1": None}):
        assert list(troubles(Machines(known, any_ready=True))) == ["m1"]
        assert troubles(Machines(known, any_ready=False)) == {}
