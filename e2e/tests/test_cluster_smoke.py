"""The promises of the operator, with real torchrun in real pods."""

import contextlib
import re

import pytest
import yaml

from support import agents, chart, lines
from support.clusters import LOCAL_TRAINER_IMAGE, ROOT, Cluster
from support.counting import KIND, SECONDS, conditions, job, status, training, wait_state, wait_status
from support.kubectl import Kubectl, Object
from support.waiting import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300, func_only=True)]


def node_pods(kubectl: Kubectl, name: str) -> list[str]:
    """Return the names of the node pods of the job."""
    selector = f"torchrun.dev/job-name={name},torchrun.dev/role=node"
    return sorted(pod["metadata"]["name"] for pod in kubectl.list("pods", selector))


def metric(cluster: Cluster, sample: str) -> float:
    """Return a sample of the metrics of the operator."""
    path = f"/api/v1/namespaces/{chart.NAMESPACE}/services/{chart.RELEASE}-metrics:8080/proxy/metrics"
    lines = cluster.kubectl.run("get", "--raw", path).splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{sample} "))


def complete(cluster: Cluster) -> int:
    """Return how many jobs of all namespaces are complete."""
    states = cluster.kubectl.run("get", KIND, "--all-namespaces", "--output=jsonpath={.items[*].status.state}")
    return states.split().count("Complete")


def told(kubectl: Kubectl) -> set[str]:
    """Return the reasons of the events of jobs."""
    events = kubectl.list("events")
    return {event["reason"] for event in events if event["involvedObject"]["kind"] == "TorchrunJob"}


def test_a_job_completes(cluster: Cluster, kubectl: Kubectl) -> None:
    kubectl.apply(job("tiny", cluster.trainer_image, "2", steps=40))
    found = wait_state(kubectl, "tiny", "Complete")

    assert conditions(found) == {
        "Accepted": ("True", "Valid"),
        "Suspended": ("False", "NotSuspended"),
        "Scheduled": ("True", "AllScheduled"),
        "Running": ("False", "Ended"),
        "Resizing": ("False", "Settled"),
        "Complete": ("True", "Finished"),
    }
    assert found["restarts"] == {"code": 0, "infrastructure": 0, "preemption": 0, "resize": 0}
    assert [(node["index"], node["pod"], node["phase"]) for node in found["nodes"]] == [
        (0, "tiny-0", "Succeeded"),
        (1, "tiny-1", "Succeeded"),
    ]
    assert sorted(node["rank"] for node in found["nodes"]) == [0, 1]
    assert {"step": 40, "totalSteps": 40, "worldSize": 2, "snapshotStep": 40}.items() <= found["progress"].items()
    wait_for(
        "the events, which are written after the status", lambda: {"Training", "Finished"} <= told(kubectl), SECONDS
    )
    # Jobs of earlier tests are being deleted meanwhile.
    wait_for(
        "the metric counts the complete jobs",
        lambda: metric(cluster, 'torchrun_operator_jobs{state="Complete"}') == complete(cluster) > 0,
        SECONDS,
    )
    assert "step=40/40" in "".join(kubectl.run("logs", pod) for pod in node_pods(kubectl, "tiny"))
    wait_for("only finished pods to be left", lambda: len(kubectl.list("pods")) == 2, SECONDS)


def test_training_survives_rank_zero(cluster: Cluster, kubectl: Kubectl) -> None:
    with training(kubectl, "survivor") as followed:
        kubectl.apply(job("survivor", cluster.trainer_image, "1:2", steps=100_000))
        followed.wait("a snapshot", lambda step: (step.snapshot or 0) >= 20, SECONDS)
        found = wait_status(
            kubectl, "survivor", "ranks", lambda s: all("rank" in node for node in s["nodes"]) and len(s["nodes"]) == 2
        )
        victim = next(node["pod"] for node in found["nodes"] if node["rank"] == 0)
        before, killed = followed.steps()[-1], followed.now()
        kubectl.run("delete", "pod", victim, "--force", "--grace-period=0")
        after = followed.wait(
            "a step at full size after the kill",
            lambda step: step.started_at > killed and step.world == 2,
            SECONDS,
        )
    assert after.started_from >= (before.snapshot or 0) >= 20
    found = wait_status(
        kubectl, "survivor", "the loss counted", lambda s: s["state"] == "Running" and s["membership"]["nodes"] == 2
    )
    assert found["restarts"] == {"code": 0, "infrastructure": 1, "preemption": 0, "resize": 0}
    assert found["membership"]["lastChange"]["cause"] == "infrastructure"


def test_a_spare_takes_the_place_of_rank_0_and_workers_start_warm(cluster: Cluster, kubectl: Kubectl) -> None:
    elasticity = {"spares": 1, "warmStart": True}
    with training(kubectl, "spared") as followed:
        kubectl.apply(job("spared", cluster.trainer_image, "2", steps=100_000, elasticity=elasticity))
        followed.wait("two workers", lambda step: step.world == 2 and step.step >= 25, SECONDS)
        found = wait_status(kubectl, "spared", "a spare", lambda s: s["membership"].get("spares") == 1)
        spare = next(node for node in found["nodes"] if node.get("spare"))
        wait_for(
            "torch is loaded in the spare",
            lambda: "workers start warm" in kubectl.run("logs", spare["pod"]),
            SECONDS,
        )
        victim = next(node["pod"] for node in found["nodes"] if node.get("rank") == 0)
        killed = followed.now()
        kubectl.run("delete", "pod", victim, "--force", "--grace-period=0")
        followed.wait(
            "a step at full size after the kill", lambda step: step.started_at > killed and step.world == 2, SECONDS
        )
    found = wait_status(kubectl, "spared", "the next spare", lambda s: s["membership"].get("spares") == 1)
    assert "rank" in next(node for node in found["nodes"] if node["uid"] == spare["uid"])
    assert [node["pod"] for node in found["nodes"] if node.get("spare")] == [victim]
    assert found["restarts"] == {"code": 0, "infrastructure": 1, "preemption": 0, "resize": 0}
    assert found["replicas"] == 2
    assert "cold" not in "".join(kubectl.run("logs", pod) for pod in node_pods(kubectl, "spared"))


def test_scaling_loses_no_step(cluster: Cluster, kubectl: Kubectl) -> None:
    with training(kubectl, "elastic") as followed:
        kubectl.apply(job("elastic", cluster.trainer_image, "2:3", steps=100_000))
        followed.wait("3 workers", lambda step: step.world == 3 and step.step >= 25, SECONDS)
        for replicas in (2, 3):
            asked = followed.now()
            kubectl.run("scale", KIND, "elastic", f"--replicas={replicas}")
            after = followed.wait(
                f"{replicas} workers",
                lambda step, size=replicas, since=asked: step.world == size and step.started_at > since,  # type: ignore[misc]
                SECONDS,
            )
            before = max(s.step for s in followed.steps() if s.started_at < after.started_at)
            assert after.started_from >= before, "steps had to be repeated"
        assert [int(start.values["at"]) for start in followed.starts()].count(0) == 1
    found = wait_status(
        kubectl, "elastic", "3 nodes", lambda s: s["state"] == "Running" and s["membership"]["nodes"] == 3
    )
    assert found["restarts"] == {"code": 0, "infrastructure": 0, "preemption": 0, "resize": 2}
    assert found["replicas"] == 3


def test_the_result_is_that_of_an_undisturbed_run_on_one_machine(cluster: Cluster, kubectl: Kubectl) -> None:
    """Run the example with another image, and kill two of its nodes."""
    example = ROOT / "e2e/examples/plain_ddp"
    manifest = (example / "torchrunjob.yaml").read_text()
    assert manifest.count(LOCAL_TRAINER_IMAGE) == 1
    with training(kubectl, "plain-ddp") as followed:
        kubectl.run("apply", "--filename=-", stdin=manifest.replace(LOCAL_TRAINER_IMAGE, cluster.trainer_image))
        snapshot = followed.wait("a snapshot", lambda step: step.world == 4 and bool(step.snapshot), SECONDS).snapshot
        for rank in (0, 3):
            found = wait_status(
                kubectl, "plain-ddp", "ranks", lambda s: [n.get("rank", -1) >= 0 for n in s["nodes"]] == [True] * 4
            )
            victim = next(node["pod"] for node in found["nodes"] if node["rank"] == rank)
            killed = followed.now()
            kubectl.run("delete", "pod", victim, "--force", "--grace-period=0")
            after = followed.wait(
                f"training with four nodes after rank {rank} was killed",
                lambda step, since=killed: step.started_at > since and step.world == 4,  # type: ignore[misc]
                SECONDS,
            )
            assert after.started_from >= (snapshot or 0) > 0
    found = wait_state(kubectl, "plain-ddp", "Complete")
    assert found["restarts"] == {"code": 0, "infrastructure": 2, "preemption": 0, "resize": 0}
    elastic = "".join(kubectl.run("logs", pod) for pod in node_pods(kubectl, "plain-ddp"))

    arguments = [argument for argument in _arguments(manifest) if not argument.startswith("--snapshot-path")]
    undisturbed = agents.output([str(example / "after.py"), *arguments, "--snapshot-path="], 1)
    assert _error(elastic) == pytest.approx(_error(undisturbed), rel=1e-5)


def _arguments(manifest: str) -> list[str]:
    container = yaml.safe_load(manifest)["spec"]["template"]["spec"]["containers"][0]
    return [str(argument) for argument in container["args"]]


def _error(output: str) -> float:
    """Return the result of the script, which only rank 0 prints."""
    found = re.findall(r"^error=(.*)$", lines.whole(output), re.MULTILINE)
    assert len(found) == 1, output[-2000:]
    return float(found[0])


def test_a_failing_script_fails_the_job(cluster: Cluster, kubectl: Kubectl) -> None:
    kubectl.apply(job("failing", cluster.trainer_image, "2", steps=1000, fails_at=25, maxRestarts=1))
    found = wait_state(kubectl, "failing", "Failed")

    assert conditions(found)["Failed"] == ("True", "MaxRestartsExceeded")
    message = next(c["message"] for c in found["conditions"] if c["type"] == "Failed")
    failure = found["lastFailure"]
    assert message.startswith(
        f"rank 1 (pod {failure['pod']}) failed first: RuntimeError: the learning rate is a banana"
    )
    assert (failure["cause"], failure["rank"], failure["exitCode"]) == ("code", 1, 1)
    assert 'raise RuntimeError("the learning rate is a banana")' in failure["traceback"]
    # Warm workers may fail again before the first failure is counted: then the second event is the only one.
    reasons = ("WorkersFailed", "MaxRestartsExceeded")
    messages = wait_for(
        "an event of the failure, which is written after the status",
        lambda: [event["message"] for event in kubectl.list("events") if event["reason"] in reasons],
        SECONDS,
    )
    assert all("rank 1 (pod failing-" in words and "banana" in words for words in messages)
    assert f"; the code has failed {found['restarts']['code']} times and spec.maxRestarts is 1; " in message
    assert found["restarts"]["code"] >= 2  # those that fail again within the seconds of settling count as well
    assert {**found["restarts"], "code": 0} == {"code": 0, "infrastructure": 0, "preemption": 0, "resize": 0}
    wait_for("no pod to run on", lambda: not _running(kubectl), SECONDS)
    assert node_pods(kubectl, "failing") == ["failing-0", "failing-1"]
    assert "banana" in "".join(kubectl.run("logs", pod) for pod in node_pods(kubectl, "failing"))


def test_a_bad_job_disturbs_no_other(cluster: Cluster, kubectl: Kubectl) -> None:
    image = cluster.trainer_image
    refused = job("refused", image, "1", steps=20)
    refused["spec"]["template"]["spec"]["serviceAccountName"] = "absent"
    with training(kubectl, "good") as followed:
        kubectl.apply(
            job("good", image, "1", steps=100_000), job("no-image", "example.invalid/absent:1", "1", steps=20), refused
        )
        found = wait_status(
            kubectl,
            "no-image",
            "a message about the image",
            lambda s: conditions(s).get("Running") == ("False", "PodsWaiting"),
        )
        message = next(c["message"] for c in found["conditions"] if c["type"] == "Running")
        assert "pod no-image-" in message
        assert "Image" in message
        found = wait_status(
            kubectl,
            "refused",
            "a message about the service account",
            lambda s: conditions(s).get("Accepted") == ("False", "RefusedByCluster"),
        )
        assert "absent" in next(c["message"] for c in found["conditions"] if c["type"] == "Accepted")

        kubectl.run("create", "serviceaccount", "absent")
        template = job("no-image", image, "1", steps=20)["spec"]["template"]
        kubectl.patch(KIND, "no-image", {"spec": {"suspend": True}})
        wait_state(kubectl, "no-image", "Suspended")
        kubectl.patch(KIND, "no-image", {"spec": {"suspend": False, "template": template}})
        for name in ("no-image", "refused"):
            found = wait_state(kubectl, name, "Complete")
            assert found["restarts"]["code"] == 0
        seen = followed.steps()[-1].step
        followed.wait("the valid job to continue", lambda step: step.step > seen, SECONDS)
        assert len(followed.starts()) == 1
    assert status(kubectl, "good")["restarts"] == {"code": 0, "infrastructure": 0, "preemption": 0, "resize": 0}


def test_jobs_start_while_the_operator_is_killed(cluster: Cluster, kubectl: Kubectl) -> None:
    names = ["first", "second"]
    operator = cluster.kubectl.within(chart.NAMESPACE)
    with contextlib.ExitStack() as stack:
        followed = [stack.enter_context(training(kubectl, name)) for name in names]
        kubectl.apply(*(job(name, cluster.trainer_image, "2", steps=60) for name in names))
        for _ in range(3):
            _kill_operator(operator)
        for name in names:
            found = wait_state(kubectl, name, "Complete")
            assert found["restarts"] == {"code": 0, "infrastructure": 0, "preemption": 0, "resize": 0}
            assert node_pods(kubectl, name) == [f"{name}-0", f"{name}-1"]
        assert [len(one.starts()) for one in followed] == [1, 1]
    kubectl.run("delete", KIND, "--all")
    for kind in ("pods", "services", "configmaps", "persistentvolumeclaims"):
        wait_for(f"no {kind} to be left", lambda kind=kind: not _owned(kubectl, kind), SECONDS)  # type: ignore[misc]


def test_suspend_and_resume(cluster: Cluster, kubectl: Kubectl) -> None:
    with training(kubectl, "sleeper") as followed:
        kubectl.apply(job("sleeper", cluster.trainer_image, "2", steps=100_000))
        followed.wait("a snapshot", lambda step: (step.snapshot or 0) >= 20, SECONDS)
        kubectl.patch(KIND, "sleeper", {"spec": {"suspend": True}})
        wait_status(kubectl, "sleeper", "suspension", lambda s: conditions(s).get("Suspended") == ("True", "Suspended"))
        assert kubectl.list("pods") == []
        before = max(step.step for step in followed.steps())
        kubectl.patch(KIND, "sleeper", {"spec": {"suspend": False}})
        after = followed.wait("a step after resuming", lambda step: step.step > before, SECONDS)
    assert after.started_from == before, "steps had to be repeated"
    found = wait_state(kubectl, "sleeper", "Running")
    assert found["restarts"]["code"] == found["restarts"]["infrastructure"] == 0


def _running(kubectl: Kubectl) -> list[Object]:
    return [pod for pod in kubectl.list("pods") if pod["status"].get("phase") in ("Pending", "Running")]


def _owned(kubectl: Kubectl, kind: str) -> list[Object]:
    return kubectl.list(kind, "app.kubernetes.io/managed-by=torchrun-operator")


def _kill_operator(operator: Kubectl) -> None:
    """Kill the operator, and wait until its successor is ready."""
    selector = f"app.kubernetes.io/instance={chart.RELEASE}"
    before = {pod["metadata"]["uid"] for pod in operator.list("pods", selector)}
    operator.run("delete", "pods", f"--selector={selector}", "--force", "--grace-period=0")

    def successor() -> bool:
        pods = [pod for pod in operator.list("pods", selector) if pod["metadata"]["uid"] not in before]
        ready = [c for pod in pods for c in pod["status"].get("conditions") or [] if c["type"] == "Ready"]
        return any(condition["status"] == "True" for condition in ready)

    wait_for("the operator to be back", successor, SECONDS)
