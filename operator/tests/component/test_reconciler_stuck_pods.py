"""Pods that are being deleted and do not end although their kubelet answers: a stuck process, a finalizer."""

from datetime import timedelta

import pytest

from torchrun_operator.api.names import LABEL_NODE_INDEX
from world import World, counts, reasons, started


async def deleted_for_ever(world: World, name: str, **status: object) -> str:
    """Delete a pod that does not end. Return its address."""
    pod = world.pods[name]
    world.stuck.add(pod["metadata"]["uid"])
    pod["status"] |= status
    world.cluster.delete_gracefully(pod)
    for _ in range(3):
        await world.reconcile()
        world.live()
    address: str = pod["status"]["podIP"]
    return address


async def later(world: World, seconds: int) -> None:
    """Let the world continue for that long."""
    for _ in range(seconds):
        await world.reconcile()
        world.live()
        world.now += timedelta(seconds=1)


async def test_a_pod_that_does_not_end_is_replaced_after_its_grace_under_another_name() -> None:
    world = await started()
    address = await deleted_for_ever(world, "digits-1")
    await later(world, 80)  # 30 s of grace, and almost 60 s
    assert (sorted(world.nodes), world.status["membership"]["summary"]) == (
        ["digits-0", "digits-1", "digits-2"],
        "2/2:4",
    )
    assert world.condition("Resizing")["reason"] == "ShortOfNodes"
    assert (
        "digits-1: is being deleted, and still runs after its grace period of 30 s"
        in world.condition("Resizing")["message"]
    )
    world.cluster.events.clear()
    await world.settle()
    assert sorted(world.nodes) == ["digits-0", "digits-1", "digits-1-r2", "digits-2"]
    assert (world.status["membership"]["summary"], world.status["state"]) == ("3/2:4", "Running")
    assert [node["pod"] for node in world.status["nodes"]] == ["digits-0", "digits-1-r2", "digits-2"]
    assert (counts(world), reasons(world).count("PodStuck")) == ({"infrastructure": 1}, 1)
    new = world.nodes["digits-1-r2"]
    assert (new["spec"]["hostname"], new["metadata"]["labels"][LABEL_NODE_INDEX]) == ("digits-1-r2", "1")
    (host,) = world.hosts.values()
    assert host.target is not None
    assert address in host.target.leavers, "the agent of the old pod may return"

    world.stuck.clear()
    await world.settle()
    assert sorted(world.nodes) == ["digits-0", "digits-1-r2", "digits-2"]
    assert world.cluster.most_pods == {"digits-rdzv": 1, "digits-0": 1, "digits-1": 1, "digits-1-r2": 1, "digits-2": 1}
    world.delete("digits-1-r2")
    await world.settle()
    assert sorted(world.nodes) == ["digits-0", "digits-1", "digits-2"], "the usual name is free again"


async def test_a_pod_that_only_a_finalizer_keeps_is_replaced_sooner() -> None:
    world = await started()
    world.end(world.pods["digits-1"], 143)
    world.pods["digits-1"]["metadata"]["finalizers"] = ["queue.example.com/managed"]
    await deleted_for_ever(world, "digits-1")
    await later(world, 8)
    assert "its finalizers (queue.example.com/managed) keep it" in world.condition("Resizing")["message"]
    await later(world, 8)
    assert sorted(world.nodes) == ["digits-0", "digits-1", "digits-1-r2", "digits-2"]
    assert world.status["membership"]["summary"] == "3/2:4"


async def test_replacements_that_do_not_end_either_get_further_names() -> None:
    world = await started()
    for name in ("digits-1", "digits-1-r2"):
        await deleted_for_ever(world, name)
        await world.settle()
    assert sorted(world.nodes) == ["digits-0", "digits-1", "digits-1-r2", "digits-1-r3", "digits-2"]
    assert world.status["membership"]["summary"] == "3/2:4"


async def test_a_restarted_operator_replaces_it_too() -> None:
    world = await started()
    await deleted_for_ever(world, "digits-1")
    world.restart_operator()
    await world.settle()
    world.restart_operator()
    await world.settle()
    assert sorted(world.nodes) == ["digits-0", "digits-1", "digits-1-r2", "digits-2"]


@pytest.mark.parametrize("change", [{"replicas": 2}, {"suspend": True}])
async def test_a_pod_that_is_not_wanted_is_not_replaced(change: dict[str, object]) -> None:
    world = await started()
    world.cluster.edit(world.job, **change)
    await deleted_for_ever(world, "digits-2")
    await world.settle()
    assert "digits-2-r2" not in world.nodes


async def test_a_resumed_job_does_not_wait_for_a_pod_that_does_not_end() -> None:
    world = await started()
    await deleted_for_ever(world, "digits-1")
    world.cluster.edit(world.job, suspend=True)
    await world.settle()
    world.cluster.edit(world.job, suspend=False)
    await world.settle()
    assert world.status["membership"]["summary"] == "3/2:4"


async def test_the_kubernetes_node_of_a_stuck_pod_falls_silent() -> None:
    world = await started()
    await deleted_for_ever(world, "digits-1")
    await world.settle()
    world.give_up(world.cut_off("digits-1"))
    await world.settle()
    assert sorted(world.nodes) == ["digits-0", "digits-1-r2", "digits-2"]
