"""Taken names, invalid specs, and requests that the API server rejects or that fail."""

from datetime import timedelta
from typing import Any

import pytest

from builders import NOW
from torchrun_operator.cluster.port import ClusterError
from torchrun_operator.reconcile.memory import Attempt
from world import KEY, World, counts, started

NODES = ["digits-0", "digits-1", "digits-2"]


async def test_an_object_of_another_owner_with_the_name_is_not_changed() -> None:
    world = World()
    theirs = world.cluster.add(
        {"kind": "Service", "metadata": {"namespace": "team", "name": "digits"}, "spec": {"theirs": True}}
    )
    await world.settle()
    accepted = world.condition("Accepted")
    assert (accepted["status"], world.status["state"], world.pods) == ("False", "Invalid", {})
    assert "digits exists and belongs to another owner" in accepted["message"]
    assert theirs["spec"] == {"theirs": True}
    world.cluster.remove(theirs)
    await world.settle()
    assert world.status["state"] == "Running"


async def test_a_pod_of_another_owner_with_the_name_of_a_node() -> None:
    world = World()
    theirs = world.cluster.add(
        {
            "kind": "Pod",
            "metadata": {"namespace": "team", "name": "digits-1", "labels": {"torchrun.dev/job-name": "digits"}},
            "spec": {},
            "status": {"phase": "Pending"},
        }
    )
    await world.settle()
    assert world.condition("Accepted")["reason"] == "NameTaken"
    assert world.pods["digits-1"] is theirs
    world.cluster.remove(theirs)
    await world.settle()
    assert world.status["state"] == "Running"


async def test_a_refusal_is_reported_and_retried_with_growing_delays() -> None:
    world = World()
    world.cluster.refuse = lambda manifest: "exceeded quota" if manifest["kind"] == "Pod" else ""
    delays = []
    for _ in range(10):
        outcome = await world.reconcile()
        assert outcome is not None
        assert outcome.look_again_seconds is not None
        delays.append(outcome.look_again_seconds)
        world.now += timedelta(seconds=outcome.look_again_seconds)
    assert delays == sorted(delays)
    assert delays[-1] == 15
    accepted = world.condition("Accepted")
    assert (accepted["reason"], accepted["message"]) == ("RefusedByCluster", "exceeded quota")
    world.now -= timedelta(seconds=5)
    world.cluster.log.clear()
    await world.reconcile()
    assert world.cluster.log == ["get digits", "list pods"]
    world.cluster.refuse = lambda _manifest: ""
    await world.settle()
    assert (world.status["state"], world.condition("Accepted")["reason"]) == ("Running", "Valid")


def test_what_is_refused_for_days_is_still_tried_again() -> None:
    attempt = Attempt(NOW, generation=1, refusal="exceeded quota", times=100_000)
    assert attempt.retry_seconds(1, NOW) == 15


async def test_a_corrected_spec_is_tried_at_once() -> None:
    world = World()
    world.cluster.refuse = lambda manifest: "no such class" if manifest["kind"] == "Pod" else ""
    await world.reconcile()
    world.cluster.refuse = lambda _manifest: ""
    world.cluster.edit(world.job, maxRestarts=5)
    await world.reconcile()
    assert sorted(world.nodes) == NODES


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"nnodes": "4:2"}, "spec.nnodes: MIN is greater than MAX"),
        ({"replicas": 9}, "spec.replicas"),
        ({"nodes": 3}, "spec.nodes: unknown field"),
    ],
)
async def test_an_invalid_job_is_reported_and_its_pods_continue(spec: dict[str, Any], words: str) -> None:
    world = await started()
    correct = dict(world.job["spec"])
    world.cluster.edit(world.job, **spec)
    await world.settle()
    accepted = world.condition("Accepted")
    assert (accepted["status"], accepted["reason"], world.status["state"]) == ("False", "InvalidSpec", "Invalid")
    assert words in accepted["message"]
    assert sorted(world.pods) == [*NODES, "digits-rdzv"]
    world.job["spec"] = {}
    world.cluster.edit(world.job, **correct)
    await world.settle()
    assert (world.status["state"], counts(world)) == ("Running", {})


async def test_events_that_cannot_be_recorded_hold_nothing_up() -> None:
    world = World()

    async def fault(_number: int, what: str, _done: bool) -> None:
        if what.startswith("event"):
            raise ClusterError(500, "InternalError", "etcd is slow")

    world.cluster.fault = fault
    await world.settle()
    assert (world.status["state"], world.cluster.events) == ("Running", [])


async def test_one_pod_that_cannot_be_made_holds_up_no_other() -> None:
    world = World()

    async def fault(_number: int, what: str, _done: bool) -> None:
        if what == "create digits-1":
            raise ClusterError(500, "InternalError", "timeout")

    world.cluster.fault = fault
    with pytest.raises(ClusterError):
        await world.reconciler.reconcile(KEY)
    assert sorted(world.pods) == ["digits-0", "digits-2", "digits-rdzv"]


def quota(world: World, pods: int) -> None:
    """Let the API server accept no more than that many pods, Terminating ones included."""
    words = f"exceeded quota: pods, requested: pods=1, limited: pods={pods}"
    world.cluster.refuse = lambda new: words if new["kind"] == "Pod" and len(world.pods) >= pods else ""


async def test_the_rendezvous_pod_comes_before_nodes_that_would_use_up_the_quota() -> None:
    world = World(nnodes="1:3")
    quota(world, 2)
    await world.settle()
    assert sorted(world.pods) == ["digits-0", "digits-rdzv"]
    assert world.status["membership"]["summary"] == "1/1:3"
    world.delete("digits-rdzv")
    await world.settle()
    assert sorted(world.pods) == ["digits-0", "digits-rdzv"]
    assert world.status["membership"]["summary"] == "1/1:3"


async def test_no_node_starts_while_the_rendezvous_pod_is_refused() -> None:
    world = World()
    quota(world, 0)
    await world.reconcile()
    await world.reconcile()
    assert world.pods == {}
    accepted = world.condition("Accepted")
    assert (accepted["reason"], accepted["message"]) == (
        "RefusedByCluster",
        (
            "exceeded quota: pods, requested: pods=1, limited: pods=0; free some of it, raise it (kubectl -n "
            "team describe "
            "resourcequota pods), or lower spec.replicas"
        ),
    )
    quota(world, 4)
    await world.settle()
    assert world.status["membership"]["summary"] == "3/2:4"


async def test_no_node_starts_while_another_owner_has_the_name_of_the_rendezvous_pod() -> None:
    world = World()
    labels = {"torchrun.dev/job-name": "digits"}
    theirs = world.cluster.add(
        {
            "kind": "Pod",
            "metadata": {"namespace": "team", "name": "digits-rdzv", "labels": labels},
            "spec": {},
            "status": {"phase": "Pending"},
        }
    )
    await world.settle()
    assert (sorted(world.pods), world.condition("Accepted")["reason"]) == (["digits-rdzv"], "NameTaken")
    world.cluster.remove(theirs)
    await world.settle()
    assert world.status["state"] == "Running"


async def test_what_was_not_refused_does_not_wait_for_what_was() -> None:
    """Another pod that is lost while one is refused comes back at once."""
    world = World()
    quota(world, 3)
    await world.settle()
    assert sorted(world.pods) == ["digits-0", "digits-1", "digits-rdzv"]
    await world.reconcile()  # a refusal of digits-2 is 20 s old: tried again, and refused for 15 s more
    for name in ("digits-0", "digits-rdzv"):
        world.delete(name)
        world.cluster.log.clear()
        await world.reconcile()
        created = [line for line in world.cluster.log if line.startswith("create")]
        assert created == [f"create {name}"], name


async def test_a_round_does_not_wait_for_a_pod_that_is_refused() -> None:
    """A quota admits one node: the other one is absent at once, also for an operator that has just started."""
    world = World(nnodes="1:2", replicas=1)
    quota(world, 2)
    await world.settle()
    world.cluster.edit(world.job, replicas=2)
    for restart in (False, False, True, False):
        if restart:
            world.restart_operator()
        await world.reconcile()
        await world.reconcile()
        (host,) = world.hosts.values()
        assert host.target is not None
        assert host.target.size == 1
        resizing = world.condition("Resizing")
        assert (world.status["state"], resizing["status"], resizing["reason"]) == ("Running", "False", "ShortOfNodes")
        words = "exceeded quota: pods, requested: pods=1, limited: pods=2"
        assert resizing["message"] == f"1 of 2 nodes trains; the others join later: digits-1: {words}"
        assert world.condition("Accepted")["reason"] == "RefusedByCluster"
    world.end(world.nodes["digits-0"], 137)
    await world.settle()
    assert world.status["membership"]["summary"] == "1/1:2"
    quota(world, 3)
    await world.settle()
    assert (world.status["membership"]["summary"], world.condition("Resizing")["reason"]) == ("2/1:2", "Settled")


async def test_a_claim_belongs_to_its_user_once_it_exists() -> None:
    """The operator neither takes back an expansion, nor asks for what the API server then refuses."""
    claim = {"spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}}
    world = World(snapshots={"volumeClaimTemplate": claim})
    await world.settle()
    found = world.cluster.objects["PersistentVolumeClaim", "team", "digits-snapshots"]
    found["spec"]["resources"]["requests"]["storage"] = "2Gi"
    world.now += timedelta(hours=1)
    world.cluster.log.clear()
    await world.reconcile()
    assert "create PersistentVolumeClaim digits-snapshots" in world.cluster.log
    world.restart_operator()
    await world.settle()
    assert found["spec"]["resources"]["requests"]["storage"] == "2Gi"


async def test_a_job_without_network_policies_has_none() -> None:
    """One that admits all would override the policies of others."""

    def policies() -> list[str]:
        return [name for kind, _, name in world.cluster.objects if kind == "NetworkPolicy"]

    world = await started()
    theirs = {"kind": "NetworkPolicy", "metadata": {"namespace": "team", "name": "deny"}, "spec": {"podSelector": {}}}
    world.cluster.add(theirs)
    assert policies() == ["digits-rdzv", "digits-nodes", "deny"]
    for wanted, expected in ((False, ["deny"]), (True, ["deny", "digits-rdzv", "digits-nodes"])):
        world.cluster.edit(world.job, networkPolicy=wanted)
        await world.settle()
        assert policies() == expected


async def test_a_policy_of_others_that_denies_all_leaves_the_nodes_what_training_needs() -> None:
    world = await started()
    nodes = world.cluster.objects["NetworkPolicy", "team", "digits-nodes"]
    assert nodes["spec"]["policyTypes"] == ["Ingress"]
    spec = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    world.cluster.add({"kind": "NetworkPolicy", "metadata": {"namespace": "team", "name": "deny"}, "spec": spec})
    world.now += timedelta(minutes=5)
    await world.settle()
    assert nodes["spec"]["policyTypes"] == ["Ingress", "Egress"]
