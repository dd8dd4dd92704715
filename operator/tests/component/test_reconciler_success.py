"""A job whose workers succeed completes, even if some never started or were lost."""

from datetime import timedelta
from typing import Any

import pytest

from builders import Manifest
from world import World, counts, started

NODES = ["digits-0", "digits-1", "digits-2"]


async def test_all_succeed() -> None:
    world = await started()
    world.succeed()
    await world.settle()
    assert (world.status["state"], sorted(world.pods)) == ("Complete", NODES)
    world.cluster.edit(world.job, replicas=4, suspend=True)
    await world.settle()
    assert (world.status["state"], sorted(world.pods)) == ("Complete", NODES)


async def test_a_pod_that_was_never_scheduled_is_deleted_when_the_job_completes() -> None:
    world = World(replicas=4)
    world.machines = 3
    await world.settle()
    world.succeed()
    await world.settle()
    assert (world.status["state"], sorted(world.pods)) == ("Complete", NODES)
    assert counts(world) == {}


async def test_finished_workers_end_scaling() -> None:
    world = await started()
    world.end(world.pods["digits-1"], 0, "Completed")
    for host in world.hosts.values():
        host.target = None
    for replicas in (4, 2):
        world.cluster.edit(world.job, replicas=replicas)
        await world.reconcile()
        await world.reconcile()
        assert sorted(world.nodes) == NODES
        assert {host.target for host in world.hosts.values()} == {None}
        assert world.status["state"] != "Complete"
    for name in ("digits-0", "digits-2"):
        world.end(world.pods[name], 0, "Completed")
    await world.settle()
    assert (world.status["state"], sorted(world.pods)) == ("Complete", NODES)


async def test_a_proxy_beside_the_trainer_is_ended_and_the_logs_stay() -> None:
    world = await started()
    world.succeed()
    for pod in world.nodes.values():
        pod["status"]["phase"] = "Running"
        pod["status"]["containerStatuses"].append({"name": "proxy", "state": {"running": {}}})
    world.cluster.log.clear()
    await world.settle()
    assert (world.status["state"], sorted(world.pods)) == ("Complete", NODES)
    for pod in world.nodes.values():
        states = {c["name"]: c["state"]["terminated"]["exitCode"] for c in pod["status"]["containerStatuses"]}
        assert states == {"trainer": 0, "proxy": 143}
    assert [node["phase"] for node in world.status["nodes"]] == ["Succeeded"] * 3
    writes = [line for line in world.cluster.log if line.startswith(("stop", "delete"))]
    assert sorted(writes) == ["delete digits-rdzv", *(f"stop {name}" for name in NODES)]


async def test_success_without_one_that_was_lost_before_the_last_round() -> None:
    world = await started()
    world.machines = 2
    world.delete("digits-1")
    await world.settle()
    assert (world.status["membership"]["summary"], world.status["state"]) == ("2/2:4", "Running")
    world.succeed()
    await world.settle()
    assert (world.status["state"], counts(world)) == ("Complete", {"infrastructure": 1})


async def test_all_start_over_when_one_is_lost_after_another_has_succeeded() -> None:
    world = await started()
    world.succeed()
    world.end(world.pods["digits-2"], 137)
    await world.settle()
    assert (world.status["state"], sorted(world.pods)) == ("Running", [*NODES, "digits-rdzv"])
    assert world.cluster.most_pods == {"digits-rdzv": 2, "digits-0": 2, "digits-1": 2, "digits-2": 2}
    assert counts(world) == {"infrastructure": 1}


def running(*command: str) -> Manifest:
    """Return a template whose pods run that command."""
    return {"spec": {"containers": [{"name": "trainer", "image": "train:1", "command": [*command]}]}}


PYTHON = (
    "no round was ever complete, so nothing trained together: the command of the trainer container does not start "
    "torchrun; write [torchrun, /workspace/train.py, --epochs=3]"
)
SHELL = (
    "no round was ever complete, so nothing trained together: the command of the trainer container does not start "
    "torchrun; write [torchrun, SCRIPT, ARGUMENTS]"
)
ELSEWHERE = (
    "no round was ever complete, so nothing trained together: torchrun in the command of the trainer container ended "
    "before it joined the rendezvous, or joined another one; remove its options for nodes and rendezvous, and see "
    "kubectl -n team logs digits-0 -c trainer"
)
SCRIPT = ("python3", "/workspace/train.py", "--epochs=3")
ALONE: dict[str, tuple[dict[str, Any], int, str]] = {
    "each node trains by itself": (
        {"nnodes": 2, "replicas": 2, "template": running(*SCRIPT)},
        2,
        f"digits-0, digits-1 ended with exit code 0, but {PYTHON}",
    ),
    "one node of two never ran": (
        {"nnodes": 2, "replicas": 2, "template": running(*SCRIPT)},
        1,
        f"digits-0 ended with exit code 0, but {PYTHON}",
    ),
    "a job of one node": (
        {"nnodes": 1, "replicas": 1, "template": running(*SCRIPT)},
        1,
        f"digits-0 ended with exit code 0, but {PYTHON}",
    ),
    "a shell": (
        {"nnodes": "1:2", "replicas": 2, "template": running("sh", "-c", "./run.sh")},
        2,
        f"digits-0, digits-1 ended with exit code 0, but {SHELL}",
    ),
    "torchrun of another rendezvous": (
        {"nnodes": 2, "replicas": 2, "template": running("sh", "-c", "torchrun --standalone train.py")},
        2,
        f"digits-0, digits-1 ended with exit code 0, but {ELSEWHERE}",
    ),
}


@pytest.mark.parametrize(("spec", "machines", "message"), ALONE.values(), ids=ALONE)
async def test_nodes_that_succeed_without_a_round_complete_no_job(
    spec: dict[str, Any], machines: int, message: str
) -> None:
    world = World(**spec)
    world.mute, world.machines = True, machines
    await world.settle()
    for name in sorted(world.nodes)[:machines]:
        assert world.status["state"] != "Failed"
        world.end(world.nodes[name], 0, "Completed")
        await world.reconcile()
    await world.settle()
    failed = world.condition("Failed")
    assert (world.status["state"], failed["reason"], failed["message"]) == ("Failed", "NeverTrained", message)
    assert world.condition("Complete") == {}
    assert sorted(world.pods) == [f"digits-{index}" for index in range(machines)]  # these stay for their logs


async def test_a_job_is_deleted_some_time_after_its_end() -> None:
    world = await started(ttlSecondsAfterFinished=600)
    world.succeed()
    await world.settle()
    assert (world.status["state"], sorted(world.pods)) == ("Complete", NODES)
    world.now += timedelta(seconds=601)
    await world.reconcile()
    assert [kind for kind, *_ in world.cluster.objects if kind != "Node"] == []
    await world.reconcile()
