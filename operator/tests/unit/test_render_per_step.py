"""Jobs that recover step by step: what their pods know, who may reach the lighthouse, and what is refused."""

from typing import Any

import pytest

from builders import COLD, make_job
from torchrun_operator.api import remedies
from torchrun_operator.api.v1alpha1 import TorchrunJob
from torchrun_operator.render import validation
from torchrun_operator.render.node_pod import node_pod
from torchrun_operator.render.objects import prerequisites, services
from torchrun_operator.render.programs import Programs
from torchrun_operator.render.rendezvous_pod import rendezvous_pod

PER_STEP: dict[str, Any] = {"faultTolerance": {"mode": "PerStep"}}
FIELD = "spec.faultTolerance.mode"
PROGRAMS = Programs(rendezvous=b"", launcher=b"", transfer=b"")


def variables(pod: dict[str, Any]) -> dict[str, str]:
    """Return the variables of the main container that have values."""
    env = pod["spec"]["containers"][0]["env"]
    return {variable["name"]: variable["value"] for variable in env if "value" in variable}


def lighthouse_ports(job: TorchrunJob) -> list[int]:
    """Return the ports of the rendezvous service, and of what the nodes may reach in its pod."""
    (service,) = [each for each in services(job) if each["metadata"]["name"] == "digits-rdzv"]
    (policy,) = [
        each
        for each in prerequisites(job, PROGRAMS, "torchrun-system")
        if (each["kind"], each["metadata"]["name"]) == ("NetworkPolicy", "digits-rdzv")
    ]
    ports = [*service["spec"]["ports"], *policy["spec"]["ingress"][0]["ports"]]
    return [port["port"] for port in ports]


def test_the_pods_know_the_lighthouse() -> None:
    job = make_job(nnodes="2:4", **PER_STEP)
    node, host = variables(node_pod(job, 1)), variables(rendezvous_pod(job, "0" * 64))
    assert {name: value for name, value in node.items() if name in ("TORCHFT_LIGHTHOUSE", "REPLICA_GROUP_ID")} == {
        "TORCHFT_LIGHTHOUSE": "http://digits-rdzv:29510",
        "REPLICA_GROUP_ID": "$(POD_NAME)",
    }
    assert (node["TORCHRUN_FAULT_TOLERANCE"], node["TORCHRUN_MIN_REPLICA_GROUPS"]) == ("PerStep", "2")
    assert (host["RDZV_LIGHTHOUSE_PORT"], host["RDZV_LIGHTHOUSE_GROUPS"]) == ("29510", "2")
    assert lighthouse_ports(job) == [29400, 29401, 29510, 29400, 29510]


def test_other_jobs_have_no_lighthouse() -> None:
    job = make_job()
    found = {**variables(node_pod(job, 0)), **variables(rendezvous_pod(job, "0" * 64))}
    assert not [name for name in found if "LIGHTHOUSE" in name or "REPLICA" in name or "TOLERANCE" in name]
    assert lighthouse_ports(job) == [29400, 29401, 29400]
    assert job.spec.frozen_digest == make_job(faultTolerance={"mode": "Restart"}).spec.frozen_digest


@pytest.mark.parametrize(
    ("spec", "problems"),
    [
        ({}, []),
        ({"nnodes": 2, "replicas": 2, "rendezvous": {"backend": "static"}}, [f"{FIELD}: {remedies.PER_STEP_STATIC}"]),
        (COLD, [f"{FIELD}: {remedies.PER_STEP_COMMAND}"]),
        (
            {"template": {"spec": {"containers": [{"name": "trainer", "image": "a", "command": ["./start.sh"]}]}}},
            [f"{FIELD}: {remedies.PER_STEP_COMMAND}"],
        ),
        ({"rendezvous": {"port": 29510}}, [f"spec.rendezvous.port: {remedies.PER_STEP_PORT}"]),
    ],
)
def test_what_cannot_recover_step_by_step(spec: dict[str, Any], problems: list[str]) -> None:
    found = [str(problem) for problem in validation.problems(make_job(**PER_STEP, **spec))]
    assert [problem for problem in found if problem in problems or "faultTolerance" in problem] == problems
