"""Recovery step by step in real pods: the workers of other nodes go on when a node is lost, comes or leaves."""

import pytest

from support.clusters import Cluster
from support.counting import KIND, SECONDS, job, training, wait_status
from support.kubectl import Kubectl, Object
from support.progress import Training

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400, func_only=True)]

TRAIN = """
import time
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torchrun_trainer import GlobalBatches, Run, defer_compiler

torch.set_num_threads(1)
defer_compiler()
dist.init_process_group("gloo")
torch.manual_seed(0)
inputs = torch.randn(96, 8)
targets = inputs @ torch.randn(8, 2)
model = DistributedDataParallel(torch.nn.Linear(8, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
batches = GlobalBatches(96, 24)
run = Run(snapshot_every=100, report_seconds=0.2, model=model, optimizer=optimizer, batches=batches)
for step in run.steps(1_000_000):
    mine = batches.share(step, run.rank, run.world_size)
    errors = (model(inputs[mine]) - targets[mine]).square().mean(dim=1)
    optimizer.zero_grad()
    (errors.sum() * run.world_size / 24).backward()
    optimizer.step()
    run.report(loss=errors.mean(), samples=24)
    time.sleep(0.03)
"""


def per_step(image: str) -> Object:
    """Return a job of two or three nodes."""
    manifest = job("steps", image, "2:3", steps=0, faultTolerance={"mode": "PerStep"})
    manifest["spec"]["files"] = [{"path": "/workspace/train.py", "content": TRAIN}]
    return manifest


def starts(followed: Training) -> dict[str, int]:
    """Return how often the workers of each pod have started, by uid."""
    found: dict[str, int] = {}
    for start in followed.starts():
        found[start.uid] = found.get(start.uid, 0) + 1
    return found


def test_the_workers_of_other_nodes_go_on(cluster: Cluster, kubectl: Kubectl) -> None:
    with training(kubectl, "steps") as followed:
        kubectl.apply(per_step(cluster.trainer_image))
        followed.wait("three workers", lambda step: step.world == 3 and step.step >= 20, SECONDS)
        before = wait_status(kubectl, "steps", "three nodes", lambda s: s["membership"]["nodes"] == 3)
        kubectl.run("delete", "pod", "steps-2", "--force", "--grace-period=0")
        killed = followed.now()
        followed.wait("two workers", lambda step: step.time > killed and step.world == 2, SECONDS)
        followed.wait("three workers again", lambda step: step.time > killed + 1 and step.world == 3, SECONDS)
        wait_status(kubectl, "steps", "three nodes", lambda s: s["membership"]["round"] > before["membership"]["round"])
        kubectl.run("scale", KIND, "steps", "--replicas=2")
        followed.wait("two workers", lambda step: step.time > killed + 2 and step.world == 2, SECONDS)
        end = wait_status(kubectl, "steps", "two nodes", lambda s: s["membership"]["nodes"] == 2)
    assert end["restarts"]["code"] == 0
    assert sorted(starts(followed).values()) == [1, 1, 1, 1], "only the new node has started workers"
