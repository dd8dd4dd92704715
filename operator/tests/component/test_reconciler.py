"""Whole lives of a job, from the reconciler's first pass to the last."""

from datetime import timedelta
from typing import Any

import pytest

from torchrun_operator.api.v1alpha1 import TorchrunJobStatus
from torchrun_operator.cluster.port import ClusterError
from torchrun_operator.reconcile.reconciler import Outcome
from world import KEY, World, counts, reasons, started

NODES = ["digits-0", "digits-1", "digits-2"]


async def test_a_job_starts() -> None:
    world = World()
    assert await world.reconcile() == Outcome(look_again_seconds=2.0, rest_seconds=2.0)
    assert world.cluster.log == [
        "get digits",
        "list pods",
        "apply NetworkPolicy digits-rdzv",
        "apply ConfigMap digits-rdzv",
        "create digits-0",
        "create digits-1",
        "create digits-2",
        "create digits-rdzv",
    ]
    world.cluster.log.clear()
    assert await world.reconcile() == Outcome()
    assert world.cluster.log == ["get digits", "list pods", "status digits"]
    world.live()
    world.cluster.log.clear()
    await world.reconcile()
    assert [line for line in world.cluster.log if "Service" in line] == [
        "apply Service digits",
        "apply Service digits-rdzv",
    ]
    await world.settle()
    assert sorted(world.pods) == [*NODES, "digits-rdzv"]
    assert (world.status["state"], world.status["membership"]["summary"]) == ("Running", "3/2:4")
    assert [node["rank"] for node in world.status["nodes"]] == [0, 1, 2]
    assert reasons(world) == ["AllScheduled", "Training"]


async def test_a_job_that_ends_before_its_first_status() -> None:
    """Pods come first for a new job: what happens to them before they are written down is not lost."""
    world = World(maxRestarts=0)
    await world.reconcile()
    world.live()
    world.end(world.pods["digits-1"], 3)
    world.restart_operator()
    await world.settle()
    assert (counts(world), world.status["state"]) == ({"code": 1}, "Failed")


async def test_a_quiet_job_costs_two_reads_a_pass() -> None:
    world = await started()
    world.cluster.log.clear()
    assert await world.reconcile() == Outcome()
    assert world.cluster.log == ["get digits", "list pods"]


async def test_owned_objects_are_applied_again_after_a_while_and_after_a_change() -> None:
    world = await started()
    world.cluster.log.clear()
    world.now += timedelta(seconds=400)
    await world.reconcile()
    assert len([entry for entry in world.cluster.log if entry.startswith("apply")]) == 4
    world.cluster.log.clear()
    world.cluster.edit(world.job, files=[{"path": "/workspace/a.py", "content": "1"}])
    await world.reconcile()
    assert "apply ConfigMap digits-files" in world.cluster.log


async def test_code_that_fails_too_often_ends_the_job() -> None:
    world = await started(maxRestarts=2)
    for restarts in (1, 2):
        world.end(world.pods["digits-1"], 3)
        await world.settle()
        assert (counts(world), world.status["state"]) == ({"code": restarts}, "Running")
    world.end(world.pods["digits-1"], 3)
    await world.settle()
    assert (counts(world), world.status["state"]) == ({"code": 3}, "Failed")
    assert world.condition("Failed")["reason"] == "MaxRestartsExceeded"
    assert {pod["status"]["phase"] for pod in world.nodes.values()} == {"Failed"}  # told to leave: kept for their logs
    assert "digits-rdzv" not in world.pods


async def test_agents_of_a_failed_job_that_stay_are_deleted_after_a_minute() -> None:
    world = await started(maxRestarts=0)
    world.end(world.pods["digits-1"], 3)
    await world.reconcile()
    for _ in range(59):  # the hosts and agents stand still
        outcome = await world.reconcile()
        assert outcome is not None
        assert outcome.look_again_seconds is not None
        world.now += timedelta(seconds=1)
    assert sorted(world.pods) == [*NODES, "digits-rdzv"]
    world.now += timedelta(seconds=5)
    await world.reconcile()
    doomed = {name for name, pod in world.pods.items() if "deletionTimestamp" in pod["metadata"]}
    assert doomed == {"digits-0", "digits-2", "digits-rdzv"}


async def test_failing_workers_are_counted_when_it_is_clear_that_no_node_was_lost() -> None:
    world = await started(maxRestarts=1)
    world.fail_workers()
    await world.settle()
    assert (counts(world), world.status["state"]) == ({"code": 1}, "Running")
    world.now += timedelta(seconds=30)
    world.fail_workers()
    await world.settle()
    assert (counts(world), world.status["state"]) == ({"code": 2}, "Failed")


async def test_workers_that_fail_with_a_lost_node_are_not_the_codes_fault() -> None:
    world = await started(maxRestarts=0)
    world.fail_workers()
    await world.reconcile()
    world.now += timedelta(seconds=2)
    world.delete("digits-1")
    await world.settle()
    assert (counts(world), world.status["state"]) == ({"infrastructure": 1}, "Running")


async def test_workers_that_hang_are_restarted_once_and_counted() -> None:
    world = await started(maxRestarts=1)
    world.cluster.events.clear()
    before = world.status["membership"]["round"]
    world.hang()
    world.restart_operator()
    await world.settle()
    assert (counts(world), world.status["state"]) == ({"code": 1}, "Running")
    assert world.status["membership"]["round"] == before + 1
    assert reasons(world).count("ProgressDeadlineExceeded") == 1
    assert sum(world.cluster.most_pods.values()) == 4
    for _ in range(3):
        world.restart_operator()
        await world.settle()
    assert (len(world.ended), counts(world)) == (1, {"code": 1})

    world.hang()
    await world.settle()
    assert (counts(world), world.status["state"]) == ({"code": 2}, "Failed")
    failed = world.condition("Failed")
    assert (failed["reason"], failed["message"][:33]) == (
        "ProgressDeadlineExceeded",
        "workers hang: no step since 2026-",
    )
    assert "their stacks are in the pods' logs; the code has failed 2 times" in failed["message"]
    assert len(world.ended) == 1


async def test_a_hang_that_ends_with_the_rendezvous_is_not_ended_again_in_the_next_one() -> None:
    world = await started()
    world.hang()
    await world.reconcile()
    assert counts(world) == {"code": 1}
    world.delete("digits-rdzv")
    await world.settle()
    assert (world.ended, world.status["state"]) == ([], "Running")
    assert "hungRound" not in world.status["rendezvous"]


async def test_a_pod_whose_agent_hangs_too_is_replaced() -> None:
    world = await started(nnodes=3, replicas=3)
    world.hang("digits-1")
    await world.settle()
    assert (counts(world), world.status["state"]) == ({"code": 1, "infrastructure": 1}, "Running")
    assert world.cluster.most_pods == {"digits-rdzv": 1, "digits-0": 1, "digits-1": 2, "digits-2": 1}
    lost = [event["message"] for event in world.cluster.events if event["reason"] == "NodeLost"]
    assert (
        "Node 1 (pod digits-1) did not come to the next round: its agent hangs, or its machine does; "
        "cause: infrastructure"
    ) in lost


async def test_fewer_and_more_nodes() -> None:
    world = await started()
    world.cluster.edit(world.job, replicas=2)
    await world.settle()
    assert (world.indices(), world.status["membership"]["summary"]) == ([0, 1], "2/2:4")
    world.cluster.edit(world.job, replicas=4)
    await world.settle()
    assert (world.indices(), world.status["membership"]["summary"]) == ([0, 1, 2, 3], "4/2:4")
    assert counts(world) == {"resize": 2}


async def test_more_nodes_than_there_is_room_for() -> None:
    world = World(replicas=4)
    world.machines = 3
    await world.settle()
    assert (world.status["state"], world.status["membership"]["summary"]) == ("Running", "3/2:4")
    assert (world.condition("Scheduled")["status"], world.condition("Resizing")["reason"]) == ("False", "ShortOfNodes")
    assert "digits-3: waits for a machine" in world.condition("Resizing")["message"]
    world.machines = 4
    await world.settle()
    assert world.status["membership"]["summary"] == "4/2:4"


async def test_suspend_and_resume() -> None:
    world = await started()
    world.cluster.edit(world.job, suspend=True)
    await world.settle()
    assert (world.pods, world.status["state"], world.condition("Suspended")["reason"]) == ({}, "Suspended", "Suspended")
    world.cluster.edit(world.job, suspend=False)
    await world.settle()
    assert (sorted(world.nodes), world.status["state"], counts(world)) == (NODES, "Running", {})


async def test_all_succeed() -> None:
    world = await started()
    world.succeed()
    await world.settle()
    assert (world.status["state"], sorted(world.pods)) == ("Complete", NODES)
    world.cluster.edit(world.job, replicas=4, suspend=True)
    await world.settle()
    assert (world.status["state"], sorted(world.pods)) == ("Complete", NODES)


async def test_a_pod_that_never_found_a_machine_goes_when_the_job_completes() -> None:
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


async def test_a_proxy_beside_the_trainer_keeps_no_job_from_its_end() -> None:
    world = await started()
    world.succeed()
    for pod in world.nodes.values():
        pod["status"]["phase"] = "Running"
        pod["status"]["containerStatuses"].append({"name": "proxy", "state": {"running": {}}})
    await world.settle()
    assert (world.status["state"], sorted(world.pods)) == ("Complete", [])


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


async def test_a_job_that_is_gone_or_going_is_left_alone() -> None:
    world = await started()
    world.job["metadata"]["deletionTimestamp"] = "2026-01-31T12:00:00Z"
    world.cluster.log.clear()
    assert await world.reconcile() == Outcome(gone=False)
    world.cluster.remove(world.job)
    assert await world.reconcile() == Outcome(gone=True)
    assert world.cluster.log == ["get digits", "get digits"]
    assert {kind for kind, _, _ in world.cluster.objects} == {"Node"}
    assert world.links.connected == {}


async def test_a_new_job_of_the_same_name_inherits_nothing() -> None:
    """The operator may not have seen the old one go."""
    world = await started()
    world.fail_workers()
    old_host = dict(world.hosts)
    world.cluster.remove(world.job)
    world.job = world.cluster.add({**world.job, "metadata": {**world.job["metadata"], "uid": "second"}, "status": {}})
    await world.reconcile()
    status = TorchrunJobStatus.model_validate(world.status)
    assert old_host
    assert (status.membership.instance, status.membership.round, status.rendezvous.instance) == (None, 0, None)
    await world.settle()
    assert (world.status["state"], counts(world)) == ("Running", {})


async def test_a_name_that_somebody_else_has_is_not_touched() -> None:
    world = World()
    theirs = world.cluster.add(
        {"kind": "Service", "metadata": {"namespace": "team", "name": "digits"}, "spec": {"theirs": True}}
    )
    await world.settle()
    accepted = world.condition("Accepted")
    assert (accepted["status"], world.status["state"], world.pods) == ("False", "Invalid", {})
    assert "digits exists and is not this job's" in accepted["message"]
    assert theirs["spec"] == {"theirs": True}
    world.cluster.remove(theirs)
    await world.settle()
    assert world.status["state"] == "Running"


async def test_a_pod_of_somebody_else_in_the_place_of_a_node() -> None:
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


async def test_what_the_cluster_refuses_is_told_and_tried_again_later_and_later() -> None:
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
async def test_an_invalid_job_is_told_and_what_runs_goes_on(spec: dict[str, Any], words: str) -> None:
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


async def test_progress_alone_is_written_now_and_then() -> None:
    world = await started()
    writes = []
    for step in range(30):
        for host in world.hosts.values():
            host.state = _with_step(host.state, step, world.now)
        world.cluster.log.clear()
        await world.reconcile()
        writes.append("status digits" in world.cluster.log)
        world.now += timedelta(seconds=1)
    assert 5 <= sum(writes) <= 7
    assert world.status["progress"]["step"] >= 24


def _with_step(state: Any, step: int, now: Any) -> Any:
    from dataclasses import replace

    from torchrun_rendezvous.protocol import Progress

    return replace(state, progress=Progress(step=step, time=now))


async def test_a_restarted_operator_counts_nothing_twice() -> None:
    world = await started()
    world.delete("digits-1")
    world.fail_workers()
    await world.settle()
    before = counts(world)
    for _ in range(3):
        world.restart_operator()
        await world.settle()
    assert (counts(world), before, world.status["state"]) == (before, {"infrastructure": 1}, "Running")
