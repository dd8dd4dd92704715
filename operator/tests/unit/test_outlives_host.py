"""A job whose agents outlive the rendezvous host: its loss stops no node, and the status says that they train."""

from dataclasses import replace
from typing import Any

import pytest

from builders import COLD, HOST, NOW, THREE, decide, make_job, seen, stored, training_job
from torchrun_operator.core.facts.model import Phase
from torchrun_operator.core.policies.plan import Deletion

SILENCE = "Kubernetes node m0 is not ready for 5 s"


def runs(*command: str, **trainer: Any) -> dict[str, Any]:
    """Return the template of a job with that command."""
    container = {"name": "trainer", "image": "example.com/train:1", **({"command": [*command]} if command else {})}
    return {"template": {"spec": {"containers": [{**container, **trainer}]}}}


@pytest.mark.parametrize(
    ("spec", "outlives"),
    [
        (runs("torchrun", "train.py"), True),
        (runs("/opt/venv/bin/python", "-m", "torch.distributed.run", "train.py"), True),
        (runs("torchrun", args=["train.py"]), True),
        (runs("bash", "-c", "exec torchrun train.py"), True),
        (runs("bash", "train.sh"), False),
        (runs(args=["torchrun", "train.py"]), False),
        ({**runs("torchrun", "train.py"), **COLD}, False),
        (runs("torchrun", "train.py", env=[{"name": "PYTHON_EXEC", "value": "/opt/python"}]), False),
        ({**runs("torchrun", "train.py"), "lead": {"command": ["bash", "lead.sh"]}}, False),
        ({**runs("torchrun", "train.py"), "rendezvous": {"backend": "static"}, "nnodes": 3}, False),
    ],
)
def test_which_agents_outlive_their_host(spec: dict[str, Any], outlives: bool) -> None:
    assert make_job(**spec).spec.outlives_host is outlives


def test_the_loss_of_the_host_deletes_no_node() -> None:
    job = training_job()
    lost = replace(HOST, phase=Phase.LOST, trouble=SILENCE)
    found = decide(job, seen(*THREE, rendezvous_pod=lost), NOW)
    assert found.plan.deletions == (Deletion("digits-rdzv", "pod-rdzv", SILENCE, 0),)
    assert (found.plan.restart_all, found.restarts) == ("", {})


@pytest.mark.parametrize(
    ("host", "message"),
    [
        (None, "3 of 3 nodes train in round 0; the rendezvous pod starts again, and the nodes go on meanwhile"),
        (
            replace(HOST, phase=Phase.STARTING, ready=False),
            "3 of 3 nodes train in round 0; the rendezvous pod starts again, and the nodes go on meanwhile",
        ),
        (HOST, "3 of 3 nodes train in round 0"),
    ],
)
def test_the_status_says_that_the_nodes_train(host: Any, message: str) -> None:
    job = training_job()
    after = stored(job, decide(job, seen(*THREE, rendezvous_pod=host), NOW))
    (running,) = [each for each in after.status.conditions if each.type == "Running"]
    assert (running.status, running.message, after.status.membership.nodes) == ("True", message, 3)


def test_other_jobs_wait_for_their_host() -> None:
    job = training_job(**COLD)
    after = stored(job, decide(job, seen(*THREE, rendezvous_pod=None), NOW))
    assert after.status.membership.nodes == 0
