"""Kubernetes nodes that fail or are cut off, and code that fails: counts, events and replacements."""

from datetime import timedelta

import pytest

from builders import COLD, job_manifest
from world import World, counts, reasons, started

NODES = ["digits-0", "digits-1", "digits-2"]


async def test_a_lost_node_is_replaced() -> None:
    world = await started()
    world.cluster.events.clear()
    world.delete("digits-1")
    await world.settle()
    assert sorted(world.nodes) == NODES
    assert (counts(world), world.status["state"]) == ({"infrastructure": 1}, "Running")
    assert world.cluster.most_pods == {"digits-rdzv": 1, "digits-0": 1, "digits-1": 2, "digits-2": 1}
    assert sorted(reasons(world)) == ["AllScheduled", "NodeLost", "Settled"]


async def test_the_rendezvous_is_lost() -> None:
    world = await started(**COLD)
    world.delete("digits-rdzv")
    await world.settle()
    assert sorted(world.pods) == [*NODES, "digits-rdzv"]
    assert (counts(world), world.status["state"]) == ({"infrastructure": 3}, "Running")


async def test_a_kubernetes_node_that_is_cut_off_and_comes_back() -> None:
    world = await started()
    machine = world.cut_off("digits-1")
    await world.settle()
    assert (world.status["membership"]["summary"], world.status["state"]) == ("2/2:4", "Running")
    assert world.condition("Resizing")["message"].endswith("digits-1: is silent")
    assert counts(world) == {}
    rounds = world.status["membership"]["round"]

    world.give_up(machine)
    await world.settle()
    assert (world.status["membership"]["summary"], world.status["state"]) == ("3/2:4", "Running")
    assert world.pods["digits-1"]["spec"]["nodeName"] != machine
    assert counts(world) == {"infrastructure": 1}
    assert world.status["membership"]["round"] == rounds + 1
    failure = world.status["lastFailure"]
    assert (failure["pod"], failure["machine"], failure["cause"]) == ("digits-1", machine, "infrastructure")

    world.heal(machine)
    await world.settle()
    assert (world.status["membership"]["round"], counts(world)) == (rounds + 1, {"infrastructure": 1})
    assert world.cluster.most_pods["digits-1"] == 2


async def test_a_kubernetes_node_that_only_the_api_server_cannot_reach() -> None:
    """The rendezvous host receives its heartbeats: the operator does nothing, then or later."""
    world = await started()
    machine = world.pods["digits-1"]["spec"]["nodeName"]
    for ready in ("Unknown", "True"):
        world.cluster.set_ready(machine, ready)
        await world.settle()
        assert (world.status["state"], counts(world)) == ("Running", {})
    assert set(world.cluster.most_pods.values()) == {1}


def trains_on(world: World) -> None:
    """Check that no pod was deleted, and that the job trains."""
    assert set(world.cluster.most_pods.values()) == {1}
    assert not [entry for entry in world.cluster.log if entry.startswith("delete")]
    assert (world.status["state"], counts(world)) == ("Running", {})


@pytest.mark.parametrize("name", ["digits-1", "digits-rdzv"])
async def test_a_restarted_operator_listens_before_it_judges(name: str) -> None:
    """A kubelet is silent, but the processes on its Kubernetes node train."""
    world = await started()
    world.give_up(world.pods[name]["spec"]["nodeName"])
    await world.settle()
    world.restart_operator()
    world.links.deaf = True
    for _ in range(15):
        await world.reconcile()
        world.now += timedelta(seconds=1)
    world.links.deaf = False
    await world.settle()
    trains_on(world)


@pytest.mark.parametrize("cut_seconds", [1, 15])
async def test_a_short_cut_between_operator_and_host_loses_nothing(cut_seconds: int) -> None:
    world = await started()
    for pod in world.pods.values():
        if pod["metadata"]["name"] != "digits-0":
            world.give_up(pod["spec"]["nodeName"])
    await world.settle()
    world.links.deaf = True
    for _ in range(cut_seconds):
        await world.reconcile()
        world.now += timedelta(seconds=1)
    world.links.deaf = False
    await world.settle()
    trains_on(world)


async def test_half_of_the_kubernetes_nodes_fall_silent_and_return() -> None:
    """The API server and the rendezvous host are on one side of a partition, half of the nodes on the other."""
    world = await started(nnodes="2:10", replicas=10)
    machines = [world.cut_off(f"digits-{index}") for index in range(5, 10)]
    await world.settle()
    for machine in machines:
        world.give_up(machine)
    for _ in range(30):
        await world.reconcile()
        world.live()
        world.now += timedelta(seconds=1)
    assert sum(world.cluster.most_pods.values()) <= 11 + 1, "more than one of the silent Kubernetes nodes was given up"
    for machine in machines:
        world.heal(machine)
    await world.settle()
    assert (world.status["membership"]["summary"], world.status["state"]) == ("10/2:10", "Running")
    assert sum(world.cluster.most_pods.values()) <= 11 + 1


async def test_half_of_the_kubernetes_nodes_fall_silent_for_good() -> None:
    world = await started(nnodes="2:10", replicas=10)
    for index in range(5, 10):
        world.give_up(world.cut_off(f"digits-{index}"))
    await world.settle()
    assert (world.status["membership"]["summary"], world.status["state"]) == ("10/2:10", "Running")


async def test_a_template_that_tolerates_silence_waits_for_kubernetes() -> None:
    template = job_manifest()["spec"]["template"]
    template["spec"]["tolerations"] = [
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 600}
    ]
    world = await started(template=template)
    world.give_up(world.cut_off("digits-1"))
    await world.settle()
    assert (world.status["membership"]["summary"], world.cluster.most_pods["digits-1"]) == ("2/2:4", 1)
    world.cluster.delete_gracefully(world.pods["digits-1"])  # Kubernetes evicts it
    await world.settle()
    assert (world.status["membership"]["summary"], world.cluster.most_pods["digits-1"]) == ("3/2:4", 2)


async def test_a_pod_that_stays_terminating_on_a_lost_kubernetes_node_is_replaced() -> None:
    world = await started()
    machine = world.cut_off("digits-1")
    world.cluster.delete_gracefully(world.pods["digits-1"])
    for _ in range(60):  # the API server reports the silence of a kubelet before that
        await world.reconcile()
        world.live()
        world.now += timedelta(seconds=1)
    assert (world.status["membership"]["summary"], "deletionTimestamp" in world.pods["digits-1"]["metadata"]) == (
        "2/2:4",
        True,
    )
    world.give_up(machine)
    await world.settle()
    assert (world.status["membership"]["summary"], counts(world)) == ("3/2:4", {"infrastructure": 1})


async def test_the_kubernetes_node_of_the_rendezvous_is_lost() -> None:
    world = await started(**COLD)
    machine = world.cut_off("digits-rdzv")
    world.give_up(machine)
    await world.settle()
    assert (world.status["state"], world.status["membership"]["summary"]) == ("Running", "3/2:4")
    assert world.pods["digits-rdzv"]["spec"]["nodeName"] != machine
    assert counts(world) == {"infrastructure": 3}


async def test_a_suspended_or_scaled_job_leaves_nothing_on_a_lost_kubernetes_node() -> None:
    for change in ({"suspend": True}, {"replicas": 2}):
        world = await started()
        world.give_up(world.cut_off("digits-2"))
        world.cluster.edit(world.job, **change)
        await world.settle()
        assert "digits-2" not in world.pods


async def test_a_removed_kubernetes_node() -> None:
    world = await started()
    machine = world.cut_off("digits-1")
    world.cluster.remove_machine(machine)
    await world.settle()
    assert (world.status["membership"]["summary"], counts(world)) == ("3/2:4", {"infrastructure": 1})


async def test_a_cordon_changes_nothing_and_a_drain_is_a_preemption() -> None:
    world = await started()
    node = world.cluster.objects["Node", "", world.pods["digits-1"]["spec"]["nodeName"]]
    node["spec"] = {"unschedulable": True}
    await world.settle()
    assert (set(world.cluster.most_pods.values()), counts(world)) == ({1}, {})
    pod = world.pods["digits-1"]
    pod["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]
    world.cluster.delete_gracefully(pod)
    await world.settle()
    assert (world.status["state"], counts(world)) == ("Running", {"preemption": 1})


async def test_nodes_that_fail_by_code_in_one_moment_are_one_restart() -> None:
    world = await started(maxRestarts=1)
    for name in ("digits-0", "digits-1"):
        world.end(world.pods[name], 3)
    await world.reconcile()
    world.now += timedelta(seconds=1)
    world.end(world.pods["digits-2"], 3)
    await world.settle()
    assert (counts(world), world.status["state"]) == ({"code": 1}, "Running")
    assert reasons(world).count("NodeLost") == 3


async def test_a_node_that_fails_by_code_and_its_peers_workers_are_one_restart() -> None:
    world = await started(maxRestarts=1)
    machine = world.pods["digits-1"]["spec"]["nodeName"]
    world.end(world.pods["digits-1"], 137, reason="OOMKilled")
    await world.reconcile()
    world.now += timedelta(seconds=2)
    world.fail_workers()
    await world.settle()
    assert (counts(world), world.status["state"]) == ({"code": 1}, "Running")
    assert world.status["lastFailure"] | {"time": ""} == {
        "time": "",
        "cause": "code",
        "pod": "digits-1",
        "machine": machine,
        "exitCode": 137,
        "signal": "SIGKILL",
        "reason": "OOMKilled",
        "message": "exited with code 137 (OOMKilled)",
    }


def log_of(world: World, rank: int, error: str, seconds: float = 0.0) -> str:
    """Return a pod's log in which a worker fails that many seconds from now."""
    time = (world.now + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.123456789Z")
    prefix = f"{time} [rank{rank}]: "
    return f'{prefix}Traceback (most recent call last):\n{prefix}  File "train.py", line 3\n{prefix}{error}\n'


async def test_the_failure_of_a_worker_is_reported_with_its_error() -> None:
    """The first node that leaves is not the first that failed."""
    world = await started(maxRestarts=1)
    world.cluster.logs = {
        "digits-0": log_of(world, 0, "RuntimeError: Connection closed by peer", 1),
        "digits-1": log_of(world, 1, "ValueError: the loss is a banana"),
    }
    world.fail_workers()
    await world.settle()
    expected = {
        "cause": "code",
        "pod": "digits-1",
        "machine": world.pods["digits-1"]["spec"]["nodeName"],
        "rank": 1,
        "reason": "WorkersFailed",
        "message": "ValueError: the loss is a banana",
        "traceback": 'Traceback (most recent call last):\n  File "train.py", line 3\nValueError: the loss is a banana',
    }
    found = world.status["lastFailure"]
    assert {**found, **expected} == found
    (event,) = [event for event in world.cluster.events if event["reason"] == "WorkersFailed"]
    assert event["message"] == (
        "Workers failed and restart in place; rank 1 (pod digits-1) failed first: ValueError: the loss is a banana"
    )
    world.now += timedelta(seconds=60)
    world.cluster.logs["digits-2"] = log_of(world, 2, "KeyError: 'plum'")
    world.fail_workers()
    await world.settle()
    assert world.status["state"] == "Failed"
    assert world.condition("Failed")["message"] == (
        "rank 2 (pod digits-2) failed first: KeyError: 'plum'; the code has failed 2 times and spec.maxRestarts is 1; "
        "see kubectl -n team logs digits-2 -c trainer"
    )
