"""A static job: its nodes start together, the lead first, and all start again when one of them is lost.

The operator may end, or the API server fail, at each request: pods of two rounds never train together.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from builders import Manifest
from crashes import cancelled_at, fails_at, undisturbed
from memory_cluster import Stored
from torchrun_operator.api.base import rfc3339
from torchrun_operator.api.names import ANNOTATION_LEAD_ADDRESS, ANNOTATION_LEAD_UID
from world import World, counts, reasons

NODES = ["digits-0", "digits-1", "digits-2"]
STATIC: dict[str, Any] = {"nnodes": 3, "replicas": 3, "rendezvous": {"backend": "static"}}
Disturb = Callable[[World], None]


async def started(**spec: Any) -> World:
    """Return a world whose static job runs."""
    world = World(**{**STATIC, **spec})
    await world.settle()
    assert world.status["state"] == "Running"
    return world


def check_one_round(world: World) -> None:
    """All nodes know the pod of the lead that is there now."""
    lead, *others = (world.nodes[name] for name in NODES)
    assert ANNOTATION_LEAD_UID not in lead["metadata"]["annotations"]
    for pod in others:
        told = pod["metadata"]["annotations"]
        known = told[ANNOTATION_LEAD_UID], told[ANNOTATION_LEAD_ADDRESS]
        assert known == (lead["metadata"]["uid"], lead["status"]["podIP"])
        assert pod["spec"]["hostAliases"] == [{"ip": lead["status"]["podIP"], "hostnames": ["digits-0"]}]


async def test_the_lead_starts_first_and_the_others_with_its_address() -> None:
    world = World(**STATIC)
    await world.reconcile()
    assert sorted(world.pods) == ["digits-0"]
    await world.reconcile()
    assert sorted(world.pods) == ["digits-0"], "it has no address yet"
    world.live()
    await world.reconcile()
    assert sorted(world.pods) == NODES
    await world.settle()
    check_one_round(world)
    assert sorted(world.pods) == NODES, "there is no rendezvous pod"
    membership = world.status["membership"]
    assert (membership["summary"], membership["worldSize"], membership["round"]) == ("3/3:3", 3, 0)
    assert [node["rank"] for node in world.status["nodes"]] == [0, 1, 2]
    assert world.condition("Running")["message"] == "3 of 3 nodes run in round 0"
    kinds = {(kind, name) for kind, _, name in world.cluster.objects if kind not in ("Pod", "Node")}
    assert kinds == {
        ("TorchrunJob", "digits"),
        ("Service", "digits"),
        ("ConfigMap", "digits-hosts"),
        ("NetworkPolicy", "digits-nodes"),
    }


async def test_without_room_for_all_the_others_wait() -> None:
    world = World(**STATIC)
    world.machines = 2
    await world.settle()
    assert (world.status["state"], world.condition("Running")["status"]) == ("Pending", "False")
    assert world.condition("Running")["message"].startswith("2 of 3 nodes run")
    world.machines = 3
    await world.settle()
    assert world.status["state"] == "Running"


def uids(world: World) -> set[str]:
    return {pod["metadata"]["uid"] for pod in world.nodes.values()}


def deleted(world: World) -> None:
    world.delete("digits-1")


def lead_deleted(world: World) -> None:
    world.delete("digits-0")


def killed(world: World) -> None:
    world.end(world.pods["digits-1"], 137)


def killed_and_the_others_fail(world: World) -> None:
    world.end(world.pods["digits-0"], 1)
    world.end(world.pods["digits-2"], 1)
    world.end(world.pods["digits-1"], 137)


def fails(world: World) -> None:
    world.end(world.pods["digits-2"], 3)


def all_fail(world: World) -> None:
    for name in NODES:
        world.end(world.pods[name], 1)


def lost_at_the_end(world: World) -> None:
    world.end(world.pods["digits-0"], 0, "Completed")
    world.end(world.pods["digits-1"], 137)


def drained(world: World) -> None:
    pod = world.pods["digits-2"]
    disrupted = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    pod["status"]["conditions"] = [disrupted]
    world.cluster.delete_gracefully(pod)


def start(_world: World) -> None:
    """Change nothing: the job is new."""


def success(world: World) -> None:
    for name in NODES:
        world.end(world.pods[name], 0, "Completed")


def too_often(world: World) -> None:
    world.job["spec"]["maxRestarts"] = 0
    all_fail(world)


def suspend(world: World) -> None:
    world.cluster.edit(world.job, suspend=True)


# name: (what happens, final state, final restarts, final indices of the pods)
LIVES: dict[str, tuple[Disturb, str, dict[str, int], list[int]]] = {
    "start": (start, "Running", {}, [0, 1, 2]),
    "a node is deleted": (deleted, "Running", {"infrastructure": 1}, [0, 1, 2]),
    "the lead is deleted": (lead_deleted, "Running", {"infrastructure": 1}, [0, 1, 2]),
    "a node is killed": (killed, "Running", {"infrastructure": 1}, [0, 1, 2]),
    "a node is killed and the others fail": (
        killed_and_the_others_fail,
        "Running",
        {"infrastructure": 1},
        [0, 1, 2],
    ),
    "a node's code fails": (fails, "Running", {"code": 1}, [0, 1, 2]),
    "the code fails on all nodes": (all_fail, "Running", {"code": 1}, [0, 1, 2]),
    "a node is lost at the end": (lost_at_the_end, "Running", {"infrastructure": 1}, [0, 1, 2]),
    "a node is preempted": (drained, "Running", {"preemption": 1}, [0, 1, 2]),
    "success": (success, "Complete", {}, [0, 1, 2]),
    "the code fails too often": (too_often, "Failed", {"code": 1}, [0, 1, 2]),
    "suspend": (suspend, "Suspended", {}, []),
}


CRASHES = {
    name: LIVES[name]
    for name in (
        "start",
        "the lead is deleted",
        "a node is killed and the others fail",
        "a node's code fails",
        "a node is lost at the end",
        "success",
    )
}


async def world_before(disturb: Disturb) -> World:
    """Return a world in which that has just happened. Requests count from here."""
    world = World(**STATIC)
    if disturb is not start:
        await world.settle()
        disturb(world)
    world.cluster.log.clear()
    world.cluster.most_pods.clear()
    return world


@pytest.mark.parametrize(("disturb", "state", "restarts", "indices"), LIVES.values(), ids=LIVES)
async def test_what_happens_and_what_counts(
    disturb: Disturb, state: str, restarts: dict[str, int], indices: list[int]
) -> None:
    world = await world_before(disturb)
    before = uids(world)
    await world.settle()
    assert (world.status["state"], counts(world), world.indices()) == (state, restarts, indices)
    if state == "Running":
        check_one_round(world)
        assert not uids(world) & before, "a pod of the earlier round trains on"


@pytest.mark.parametrize("after", [False, True], ids=["before its effect", "after its effect"])
@pytest.mark.parametrize("death", [False, True], ids=["the request fails", "the operator dies"])
@pytest.mark.parametrize(("disturb", "state", "restarts", "indices"), CRASHES.values(), ids=CRASHES)
async def test_any_request_may_be_the_last(
    disturb: Disturb, state: str, restarts: dict[str, int], indices: list[int], death: bool, after: bool
) -> None:
    last, created = await undisturbed(await world_before(disturb))
    for number in range(1, last + 3):
        world = await world_before(disturb)
        await (cancelled_at if death else fails_at)(world, number, after=after)
        if death:
            world.restart_operator()
            await world.settle()
        assert (world.status["state"], counts(world), world.indices()) == (state, restarts, indices), world.cluster.log
        assert world.cluster.most_pods == created, world.cluster.log
        if state == "Running":
            check_one_round(world)


async def test_the_condition_and_the_event_name_the_first_loss() -> None:
    world = await started()
    killed_and_the_others_fail(world)
    await world.reconcile()
    resizing = world.condition("Resizing")
    assert (resizing["reason"], resizing["message"]) == (
        "RestartingAllNodes",
        "all nodes start again from the last snapshot, because pod digits-1 exited with code 137 (SIGKILL)",
    )
    await world.settle()
    assert reasons(world).count("RestartingAllNodes") == 1
    assert world.status["lastFailure"]["pod"] == "digits-1"
    assert world.status["membership"]["round"] == 1
    assert world.status["membership"]["lastChange"]["cause"] == "infrastructure"


async def test_a_failure_of_the_code_waits_for_news_of_a_lost_node() -> None:
    world = await started()
    world.end(world.pods["digits-0"], 1)
    await world.reconcile()
    assert (counts(world), world.condition("Resizing")["reason"]) == ({}, "NodeLost")
    assert [pod["metadata"].get("deletionTimestamp") for pod in world.nodes.values()] == [None] * 3
    world.restart_operator()
    world.end(world.pods["digits-1"], 137)
    await world.settle()
    assert counts(world) == {"infrastructure": 1}


async def test_nodes_that_run_on_get_little_time_to_stop() -> None:
    world = await started()
    world.end(world.pods["digits-1"], 137)
    await world.reconcile()
    graces = {name: pod["metadata"]["deletionGracePeriodSeconds"] for name, pod in world.nodes.items()}
    assert graces == {"digits-0": 1, "digits-2": 1}


async def test_pods_that_have_ended_free_their_names_at_once() -> None:
    world = await started()
    world.end(world.pods["digits-1"], 137)
    await world.reconcile()
    world.end(world.pods["digits-0"], 137)
    assert sorted(world.nodes) == ["digits-0", "digits-2"]
    last = world.nodes["digits-0"]["metadata"]["uid"]
    await world.reconcile()
    assert sorted(world.nodes) == ["digits-0", "digits-2"], "the next lead starts while another pod still ends"
    assert world.nodes["digits-0"]["metadata"]["uid"] != last, "in the pass that removes the last one"
    await world.settle()
    assert counts(world) == {"infrastructure": 1}
    check_one_round(world)


async def test_a_node_that_leaves_in_time_leaves_the_others_time_too() -> None:
    world = await started()
    world.cluster.delete_gracefully(world.pods["digits-1"])
    await world.reconcile()
    graces = {name: pod["metadata"]["deletionGracePeriodSeconds"] for name, pod in world.nodes.items()}
    assert graces == dict.fromkeys(NODES, 30)


async def runs_again(world: World, seconds: int = 30) -> None:
    """Let the world continue second by second until the nodes run."""
    for _ in range(seconds):
        await world.reconcile()
        world.live()
        world.now += timedelta(seconds=1)
        if world.status["state"] == "Running" and world.condition("Running")["status"] == "True":
            return
    raise AssertionError(world.status)


async def test_starts_that_fail_again_and_again_wait_longer() -> None:
    world = await started(maxRestarts=10)
    all_fail(world)
    await runs_again(world)
    all_fail(world)
    await world.reconcile()
    assert world.condition("Running")["reason"] == "BackOff"
    assert world.condition("Running")["message"] == (
        "the nodes ended 2 times in a row within a minute of the start; the operator starts all again at "
        f"{rfc3339(world.now + timedelta(seconds=5))}"
    )
    assert sorted(world.nodes) == NODES, "the logs stay meanwhile"
    await runs_again(world)
    assert counts(world) == {"code": 2}
    check_one_round(world)


async def test_a_pod_that_does_not_end_keeps_its_name_and_its_node_starts_under_another() -> None:
    world = await started()
    stuck = world.pods["digits-0"]
    world.stuck.add(stuck["metadata"]["uid"])
    world.cluster.delete_gracefully(stuck)
    await runs_again(world, seconds=120)
    lead = world.nodes["digits-0-r2"]
    assert lead["spec"]["hostname"] == "digits-0", "MASTER_ADDR names it"
    told = [world.nodes[name]["metadata"]["annotations"][ANNOTATION_LEAD_UID] for name in NODES[1:]]
    assert told == [lead["metadata"]["uid"]] * 2


async def test_a_silent_kubernetes_node_restarts_all() -> None:
    world = await started()
    world.give_up(world.cut_off("digits-1"))
    await world.settle()
    assert (world.status["state"], counts(world)) == ("Running", {"infrastructure": 1})
    check_one_round(world)


def overrides(world: World) -> list[tuple[Any, Any]]:
    trainers: list[Stored] = [world.nodes[name]["spec"]["containers"][0] for name in NODES]
    return [(trainer["command"], trainer.get("args")) for trainer in trainers]


async def test_the_lead_has_a_command_of_its_own_and_its_success_completes_the_job() -> None:
    template: Manifest = {"spec": {"containers": [{"name": "trainer", "image": "train:1", "command": ["work"]}]}}
    world = await started(
        template=template, completionPolicy="Lead", lead={"command": ["lead", "$(NNODES)"], "env": [{"name": "A"}]}
    )
    assert overrides(world) == [(["lead", "$(NNODES)"], []), (["work"], None), (["work"], None)]
    world.end(world.pods["digits-1"], 0, "Completed")
    await world.settle()
    assert world.status["state"] == "Running"
    world.end(world.pods["digits-0"], 0, "Completed")
    world.end(world.pods["digits-2"], 1)
    await world.settle()
    assert (world.status["state"], counts(world)) == ("Complete", {})
    assert world.condition("Complete")["message"] == "the lead, digits-0, succeeded"


async def test_nodes_that_run_on_after_the_lead_are_stopped_and_keep_their_logs() -> None:
    world = await started(completionPolicy="Lead")
    world.end(world.pods["digits-0"], 0, "Completed")
    await world.settle()
    assert (world.status["state"], sorted(world.nodes)) == ("Complete", NODES)
    assert [node["phase"] for node in world.status["nodes"]] == ["Succeeded", "Failed", "Failed"]


async def test_the_lead_of_an_elastic_job_completes_it() -> None:
    world = World(completionPolicy="Lead")
    await world.settle()
    world.end(world.pods["digits-1"], 0, "Completed")
    await world.settle()
    assert world.status["state"] == "Running"
    world.end(world.pods["digits-0"], 0, "Completed")
    await world.settle()
    assert (world.status["state"], counts(world)) == ("Complete", {})
    assert world.condition("Complete")["message"] == "the lead, digits-0, succeeded"


async def test_an_elastic_job_that_loses_its_lead_after_others_succeeded_starts_again() -> None:
    world = World(completionPolicy="Lead")
    await world.settle()
    world.end(world.pods["digits-1"], 0, "Completed")
    world.end(world.pods["digits-0"], 137)
    await world.settle()
    assert (world.status["state"], counts(world)) == ("Running", {"infrastructure": 1})


async def test_a_succeeded_lead_that_is_deleted_stays_succeeded() -> None:
    world = await started()
    world.end(world.pods["digits-0"], 0, "Completed")
    await world.settle()
    world.delete("digits-0")
    await world.settle()
    assert sorted(world.nodes) == ["digits-1", "digits-2"]
    for name in ("digits-1", "digits-2"):
        world.end(world.pods[name], 0, "Completed")
    await world.settle()
    assert (world.status["state"], counts(world)) == ("Complete", {})
