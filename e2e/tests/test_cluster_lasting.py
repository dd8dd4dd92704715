"""Training that goes on without the rendezvous pod: agents that the launcher starts outlive it."""

import pytest

from support.clusters import Cluster
from support.counting import KIND, SECONDS, job, training, wait_status
from support.kubectl import Kubectl
from support.waiting import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300, func_only=True)]


def host_log(kubectl: Kubectl) -> str:
    return kubectl.run("logs", "lasting-rdzv", "--container=rendezvous")


def test_training_goes_on_without_the_rendezvous_pod(cluster: Cluster, kubectl: Kubectl) -> None:
    with training(kubectl, "lasting") as followed:
        kubectl.apply(job("lasting", cluster.trainer_image, "1:2", steps=100_000, elasticity={"warmStart": True}))
        followed.wait("two workers", lambda step: step.world == 2 and step.step >= 25, SECONDS)
        # Before all have seen the round, the next host would end it.
        wait_for("the round has settled", lambda: "round-settled" in host_log(kubectl), SECONDS)
        settled = followed.now() + 2
        followed.wait("a step afterwards", lambda step: step.time > settled, SECONDS)
        before = wait_status(kubectl, "lasting", "two nodes", lambda s: s["membership"]["nodes"] == 2)
        host = kubectl.get("pod", "lasting-rdzv")
        assert host is not None
        kubectl.run("delete", "pod", "lasting-rdzv", "--force", "--grace-period=0")

        def taken_over() -> bool:
            now = kubectl.get("pod", "lasting-rdzv")
            if now is None or now["metadata"]["uid"] == host["metadata"]["uid"] or now["status"]["phase"] != "Running":
                return False
            return "taken-over" in host_log(kubectl)

        wait_for("the next rendezvous pod has taken over", taken_over, SECONDS)
        later = followed.now() + 3
        followed.wait("a step afterwards", lambda step: step.time > later, SECONDS)
        assert [int(start.values["at"]) for start in followed.starts()] == [0], "the workers have started again"
        # The new host leads the job: it forms the next round.
        kubectl.run("scale", KIND, "lasting", "--replicas=1")
        followed.wait("one worker", lambda step: step.world == 1, SECONDS)
    after = wait_status(kubectl, "lasting", "one node", lambda s: s["membership"]["nodes"] == 1)
    assert after["membership"]["round"] == before["membership"]["round"] + 1
    assert after["restarts"] == {"code": 0, "infrastructure": 0, "preemption": 0, "resize": 1}
