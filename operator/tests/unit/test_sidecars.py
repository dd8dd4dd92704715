"""The trainer container decides in which phase a node is, whatever the other containers of its pod do."""

from typing import Any

import pytest

from builders import NOW, make_job
from torchrun_operator.api.v1alpha1 import NodeStatus, TorchrunJobStatus
from torchrun_operator.core.facts.model import NO_WAIT, Exit, NodePod, Phase
from torchrun_operator.core.facts.pods import gather

STARTED = {"startedAt": "2026-01-31T11:00:02Z"}
RUNS = {"running": STARTED}
DONE = {"terminated": {"exitCode": 0, "reason": "Completed"}}
FAILED = {"terminated": {"exitCode": 1, "reason": "Error"}}
KILLED = {"terminated": {"exitCode": 143, "reason": "Error"}}
PULLS = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
BACKS_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container"}}
DEADLINE: Any = {"reason": "DeadlineExceeded", "message": "Pod was active on the node longer than the deadline"}
PRESSURE: Any = {"reason": "Evicted", "message": "The node was low on resource: memory. "}


def node(trainer: Any, phase: str = "Running", *, job: Any = None, deleted: bool = False, **status: Any) -> NodePod:
    """Return the node whose pod the API server describes so. ``beside``: a sidecar, ``native``: a native one."""
    containers = [{"name": "trainer", "state": trainer}]
    if "beside" in status:
        containers.insert(0, {"name": "proxy", "state": status.pop("beside")})
    inits = [{"name": "mesh", "restartCount": 7, "state": status.pop("native")}] if "native" in status else []
    metadata = {
        "name": "digits-1",
        "uid": "pod-1",
        "creationTimestamp": "2026-01-31T11:00:00Z",
        "labels": {"torchrun.dev/role": "node", "torchrun.dev/node-index": "1"},
        "ownerReferences": [{"uid": "job-uid", "controller": True}],
    }
    raw = {
        "metadata": metadata | ({"deletionTimestamp": "2026-01-31T12:00:00Z"} if deleted else {}),
        "spec": {"nodeName": "m1"},
        "status": {"phase": phase, "initContainerStatuses": inits, "containerStatuses": containers, **status},
    }
    (found,) = gather(job or make_job(), NOW, [raw], None).nodes
    return found


PHASES: dict[str, tuple[NodePod, Phase, bool]] = {
    # name: the node, its phase, and whether other containers run on
    "both run": (node(RUNS, beside=RUNS), Phase.RUNNING, False),
    "a sidecar has failed": (node(RUNS, beside=FAILED), Phase.RUNNING, False),
    "a sidecar has ended": (node(RUNS, beside=DONE), Phase.RUNNING, False),
    "a sidecar cannot pull its image": (node(RUNS, "Pending", beside=PULLS), Phase.RUNNING, False),
    "a sidecar backs off": (node(RUNS, beside=BACKS_OFF), Phase.RUNNING, False),
    "a native sidecar was restarted": (node(RUNS, native=RUNS), Phase.RUNNING, False),
    "a native sidecar backs off": (node(RUNS, native=BACKS_OFF), Phase.RUNNING, False),
    "a native sidecar has failed": (node(RUNS, native=FAILED), Phase.RUNNING, False),
    "a native sidecar starts again, and the pod is Pending": (node(RUNS, "Pending", native=RUNS), Phase.RUNNING, False),
    "a native sidecar pulls another image": (node(RUNS, "Pending", native=PULLS), Phase.RUNNING, False),
    "succeeded, a sidecar runs on": (node(DONE, beside=RUNS), Phase.SUCCEEDED, True),
    "failed, a sidecar runs on": (node(FAILED, beside=RUNS), Phase.FAILED, True),
    "succeeded, a native sidecar ends": (node(DONE, native=RUNS), Phase.SUCCEEDED, False),
    "failed, a native sidecar ends": (node(FAILED, native=RUNS), Phase.FAILED, False),
    "succeeded, then a sidecar failed": (node(DONE, "Failed", beside=FAILED), Phase.SUCCEEDED, False),
    "failed, then a sidecar succeeded": (node(FAILED, "Failed", beside=DONE), Phase.FAILED, False),
    "succeeded, then a native sidecar was killed": (node(DONE, "Failed", native=KILLED), Phase.SUCCEEDED, False),
    "succeeded, a sidecar cannot pull its image": (node(DONE, "Pending", beside=PULLS), Phase.SUCCEEDED, False),
    "ended with 0 at the deadline of the pod": (node(DONE, "Failed", **DEADLINE), Phase.FAILED, False),
    "ended with 0 by an eviction": (node(DONE, "Failed", **PRESSURE), Phase.FAILED, False),
    "ended with 0 while it is deleted": (node(DONE, deleted=True), Phase.TERMINATING, False),
}


@pytest.mark.parametrize(("found", "phase", "lingers"), PHASES.values(), ids=PHASES)
def test_phase(found: NodePod, phase: Phase, lingers: bool) -> None:
    assert (found.phase, found.lingers, found.wait) == (phase, lingers, NO_WAIT)


def test_the_exit_of_a_trainer_whose_sidecar_failed_is_its_own() -> None:
    assert node(DONE, "Failed", beside=FAILED).exit == Exit(0, "Completed", "", None)
    assert node(FAILED, "Failed", beside=DONE).exit == Exit(1, "Error", "", None)


@pytest.mark.parametrize(
    "parts",
    [{"deleted": True}, {"phase": "Failed", **PRESSURE}, {"phase": "Failed", **DEADLINE}, {"phase": "Failed"}],
    ids=["deleted", "evicted", "ended at its deadline", "failed"],
)
@pytest.mark.parametrize("trainer", [DONE, KILLED], ids=["", "its end was reported again"])
def test_a_node_that_has_succeeded_stays_so(parts: Any, trainer: Any) -> None:
    """Whatever happens to what is left of its pod."""
    recorded = NodeStatus(index=1, pod="digits-1", uid="pod-1", phase="Succeeded")
    job = make_job(TorchrunJobStatus(nodes=(recorded,)))
    assert node(trainer, job=job, **parts).phase is Phase.SUCCEEDED
