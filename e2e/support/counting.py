"""A job that counts its steps, and what tests wait for in its status and in the logs of its workers."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from support.kubectl import Kubectl, Object
from support.progress import Training
from support.watching import wait_object

KIND: Final = "torchrunjob"
SECONDS: Final = 120.0
_TRAIN: Final = """
import sys, time
import torch, torch.distributed as dist
from torchrun_trainer import Run, defer_compiler

class Counter:
    value = 0
    def state_dict(self): return {"value": self.value}
    def load_state_dict(self, state): self.value = state["value"]

defer_compiler()
torch.set_num_threads(1)
dist.init_process_group("gloo")
counter, (total, fails_at) = Counter(), map(int, sys.argv[1:])
run = Run(snapshot_every=20, report_seconds=0.2, counter=counter)
for step in run.steps(total):
    assert counter.value == step, "the state is not that of the step"
    if step == fails_at and dist.get_rank() == 1:
        raise RuntimeError("the learning rate is a banana")
    ones = torch.ones(1)
    dist.all_reduce(ones)
    assert int(ones) == dist.get_world_size()
    counter.value += 1
    time.sleep(0.05)
dist.destroy_process_group()
"""
_NEVER: Final = -1


def job(name: str, image: str, nnodes: str, *, steps: int, fails_at: int = _NEVER, **spec: object) -> Object:
    """Return a job that counts its steps, with a snapshot every 20."""
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "100Mi"}}}
    container = {
        "name": "trainer",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["torchrun", "/workspace/train.py", str(steps), str(fails_at)],
        "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
    }
    return {
        "apiVersion": "torchrun.dev/v1alpha1",
        "kind": "TorchrunJob",
        "metadata": {"name": name},
        "spec": {
            "nnodes": nnodes,
            "replicas": int(nnodes.rpartition(":")[2]),
            "files": [{"path": "/workspace/train.py", "content": _TRAIN}],
            "snapshots": {"volumeClaimTemplate": {"spec": claim}},
            "template": {
                "spec": {
                    "terminationGracePeriodSeconds": 45,
                    "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000},
                    "containers": [container],
                }
            },
            **spec,
        },
    }


def status(kubectl: Kubectl, name: str) -> dict[str, Any]:
    """Return the current status of the job."""
    found = kubectl.get(KIND, name)
    assert found is not None, f"the job {name} is gone"
    return found.get("status") or {}


def conditions(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the status and reason of each condition."""
    return {c["type"]: (c["status"], c["reason"]) for c in found.get("conditions") or []}


def wait_status(
    kubectl: Kubectl, name: str, what: str, wanted: Callable[[dict[str, Any]], bool], seconds: float = SECONDS
) -> dict[str, Any]:
    """Wait until the status of the job matches, and return it."""

    def matches(job: Object) -> bool:
        found = job.get("status") or {}
        return bool(found) and wanted(found)

    found: dict[str, Any] = wait_object(kubectl, KIND, name, what, matches, seconds)["status"]
    return found


def wait_state(kubectl: Kubectl, name: str, state: str) -> dict[str, Any]:
    """Wait until the job has this state, and return its status."""
    return wait_status(kubectl, name, f"state {state}", lambda found: found.get("state") == state)


@contextlib.contextmanager
def training(kubectl: Kubectl, name: str) -> Iterator[Training]:
    """Follow the logs of the workers of a job."""
    followed = Training(kubectl, name)
    try:
        yield followed
    finally:
        followed.stop()
