"""Failures of the code: they count, the workers restart, and too many of them end the job."""

from datetime import timedelta

from world import counts, reasons, started

NODES = ["digits-0", "digits-1", "digits-2"]


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
    assert {pod["status"]["phase"] for pod in world.nodes.values()} == {"Failed"}  # these stay for their logs
    assert "digits-rdzv" not in world.pods


async def test_agents_of_a_failed_job_that_stay_are_ended_after_a_minute_and_their_logs_stay() -> None:
    world = await started(maxRestarts=0)
    world.end(world.pods["digits-1"], 3)
    await world.reconcile()
    for _ in range(59):  # the hosts and agents do nothing
        outcome = await world.reconcile()
        assert outcome is not None
        assert outcome.look_again_seconds is not None
        world.now += timedelta(seconds=1)
    assert sorted(world.pods) == [*NODES, "digits-rdzv"]
    world.now += timedelta(seconds=5)
    await world.reconcile()
    doomed = {name for name, pod in world.pods.items() if "deletionTimestamp" in pod["metadata"]}
    stopped = {name for name, pod in world.pods.items() if pod["spec"].get("activeDeadlineSeconds")}
    assert (doomed, stopped) == ({"digits-rdzv"}, {"digits-0", "digits-2"})
    await world.settle()
    assert {name: pod["status"]["phase"] for name, pod in world.pods.items()} == dict.fromkeys(NODES, "Failed")


async def test_failing_workers_are_counted_when_it_is_clear_that_no_node_was_lost() -> None:
    world = await started(maxRestarts=1)
    world.fail_workers()
    await world.settle()
    assert (counts(world), world.status["state"]) == ({"code": 1}, "Running")
    world.now += timedelta(seconds=30)
    world.fail_workers()
    await world.settle()
    assert (counts(world), world.status["state"]) == ({"code": 2}, "Failed")


async def test_workers_that_fail_again_within_a_second_are_all_counted() -> None:
    world = await started(maxRestarts=4)
    for _ in range(20):
        world.fail_workers()
        await world.reconcile()
        world.live()
        world.now += timedelta(milliseconds=700)
        if world.status["state"] == "Failed":
            break
    assert (counts(world), world.status["state"]) == ({"code": 6}, "Failed")
    assert world.condition("Failed")["message"].split("; ")[1:2] == [
        "the code has failed 6 times and spec.maxRestarts is 4"
    ]


async def test_a_restarted_operator_counts_failures_that_the_former_one_saw() -> None:
    world = await started(maxRestarts=0)
    world.fail_workers()
    await world.reconcile()
    world.restart_operator()
    world.now += timedelta(seconds=3)
    await world.reconcile()
    await world.reconcile()
    assert (counts(world), world.status["state"]) == ({"code": 1}, "Failed")


async def test_a_node_that_ends_early_with_0_makes_all_start_again() -> None:
    world = await started(nnodes=2, replicas=2, maxRestarts=1)
    echo = "RuntimeError: Connection closed by peer"
    for failures in (1, 2):
        world.finish("digits-1")
        await world.reconcile()
        assert world.condition("Running")["message"].partition("; ")[2] == (
            "1 of them has ended with exit code 0 and waits up to 300 s for the other"
        )
        pods = {name: pod["metadata"]["uid"] for name, pod in world.nodes.items()}
        world.fail_workers_of("digits-0")
        time = world.now.isoformat()
        world.cluster.logs["digits-0"] = f"{time} Traceback (most recent call last):\n{time} {echo}\n"
        await world.reconcile()
        assert {name: pod["metadata"]["uid"] for name, pod in world.nodes.items()} == pods
        world.now += timedelta(seconds=3)
        await world.settle()
        assert counts(world) == {"code": failures}
        failure = world.status["lastFailure"]
        assert (failure["reason"], failure["pod"], failure["message"]) == (
            "OthersFinished",
            "digits-0",
            f"after digits-1 had ended with exit code 0: {echo}",
        )
        assert world.status["state"] == ("Running" if failures == 1 else "Failed")
    assert world.cluster.most_pods == {"digits-rdzv": 2, "digits-0": 2, "digits-1": 2}
    assert world.condition("Failed")["message"] == (
        f"rank 0 (pod digits-0) failed after digits-1 had ended with exit code 0: {echo}; the code has failed 2 times "
        "and spec.maxRestarts is 1; see kubectl -n team logs digits-0 -c trainer"
    )
    assert {name: pod["status"]["phase"] for name, pod in world.nodes.items()} == {
        "digits-0": "Failed",
        "digits-1": "Succeeded",
    }
    told = [event["message"] for event in world.cluster.events if event["reason"] == "WorkersFailed"]
    assert told == [f"Workers failed; rank 0 (pod digits-0) failed after digits-1 had ended with exit code 0: {echo}"]
    assert reasons(world).count("NodeLost") == 0


async def test_nodes_that_end_a_while_apart_are_no_failure() -> None:
    world = await started(nnodes=2, replicas=2, maxRestarts=0)
    before = {name: pod["metadata"]["uid"] for name, pod in world.nodes.items()}
    world.finish("digits-1")
    for _ in range(20):
        world.now += timedelta(seconds=30)
        await world.reconcile()
        world.live()
    assert {name: pod["metadata"]["uid"] for name, pod in world.nodes.items()} == before
    world.succeed()
    await world.settle()
    assert (counts(world), world.status["state"]) == ({}, "Complete")


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
    assert "see the stacks in the logs of the pods; the code has failed 2 times" in failed["message"]
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
        "Node 1 (pod digits-1) did not join the next round: its agent or its Kubernetes node hangs; "
        "cause: infrastructure"
    ) in lost
