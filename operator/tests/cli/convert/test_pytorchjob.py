"""Single rules of the conversion of PyTorchJobs: the whole spec that each becomes, and what its comments say."""

from typing import Any

import pytest
import yaml

from torchrun_cli.convert.convert import convert

TORCHRUN: dict[str, Any] = {"command": ["torchrun", "a.py"]}


def manifest_of(spec: dict[str, Any]) -> str:
    job = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": "a"}, "spec": spec}
    return convert(yaml.safe_dump(job, sort_keys=False), "f")


def replica(count: int | None = None, **container: Any) -> dict[str, Any]:
    pod = {"containers": [{"name": "pytorch", "image": "i", **container}]}
    return {**({} if count is None else {"replicas": count}), "template": {"spec": pod}}


def replicas(master: dict[str, Any] | None = None, worker: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    found = {"Master": master, "Worker": worker}
    return {**spec, "pytorchReplicaSpecs": {name: each for name, each in found.items() if each is not None}}


def spec_of(nnodes: int | str, nproc: int | str, container: dict[str, Any], **more: Any) -> dict[str, Any]:
    pod = {"containers": [{"name": "trainer", "image": "i", **container}]}
    return {"nnodes": nnodes, "nprocPerNode": nproc, **more, "template": {"spec": pod}}


STATIC = {"rendezvous": {"backend": "static"}}
SPECS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one replica is the default": (replicas(replica(**TORCHRUN)), spec_of(1, "auto", TORCHRUN)),
    "no workers": (replicas(replica(1, **TORCHRUN), replica(0, command=["x"])), spec_of(1, "auto", TORCHRUN)),
    "elastic workers": (
        replicas(worker=replica(2, **TORCHRUN), elasticPolicy={"minReplicas": 1, "maxReplicas": 4}),
        spec_of("1:4", "auto", TORCHRUN, replicas=2),
    ),
    "elastic with a master": (
        replicas(replica(1, **TORCHRUN), replica(3, **TORCHRUN), elasticPolicy={"minReplicas": 1, "maxReplicas": 3}),
        spec_of("2:4", "auto", TORCHRUN),
    ),
    "only a maximum": (
        replicas(worker=replica(3, **TORCHRUN), elasticPolicy={"maxReplicas": 3}),
        spec_of(3, "auto", TORCHRUN),
    ),
    "elastic without sizes": (
        replicas(worker=replica(3, **TORCHRUN), elasticPolicy={"maxRestarts": 2}),
        spec_of(3, "auto", TORCHRUN, maxRestarts=2),
    ),
    "plain Python": (
        replicas(worker=replica(2, command=["python", "a.py"], args=["-v", 3])),
        spec_of(2, 1, {"command": ["torchrun", "a.py", "-v", "3"]}),
    ),
    "the image chooses the command": (
        replicas(replica(1, args=["--x"]), replica(1, args=["--x"])),
        spec_of(2, 1, {"args": ["--x"]}, **STATIC),
    ),
    "the arguments of the master differ": (
        replicas(replica(1, args=["--main"]), replica(1, args=["--x"]), nprocPerNode="gpu"),
        spec_of(2, 1, {"args": ["--x"]}, **STATIC, lead={"args": ["--main"]}),
    ),
    "the image chooses the command of an elastic job": (
        replicas(worker=replica(2, args=["--x"]), elasticPolicy={"minReplicas": 1}),
        spec_of(1, "auto", {"args": ["--x"]}),
    ),
    "unknown command": (
        replicas(worker=replica(2, command=["./run.sh", "$(RANK)"])),
        spec_of(2, 1, {"command": ["./run.sh", "$(TORCHRUN_NODE_INDEX)"]}, **STATIC),
    ),
    "static, with GPUs": (
        replicas(
            worker=replica(2, command=["deepspeed", "a.py"], resources={"limits": {"nvidia.com/gpu": 4}}),
            nprocPerNode="gpu",
        ),
        spec_of(2, 4, {"command": ["deepspeed", "a.py"], "resources": {"limits": {"nvidia.com/gpu": 4}}}, **STATIC),
    ),
    "static, with the variables of one": (
        replicas(worker=replica(1, command=["./a"], env=[{"name": "NNODES"}, {"name": "B", "value": "2"}])),
        spec_of(1, 1, {"command": ["./a"], "env": [{"name": "B", "value": "2"}]}, **STATIC),
    ),
    "a range of the command becomes the size": (
        replicas(worker=replica(3, command=["torchrun", "--nnodes=2:4", "--nproc-per-node", "8", "a.py"])),
        spec_of("2:4", 8, TORCHRUN),
    ),
    "the number of the node in the arguments": (
        replicas(replica(1, command=["torchrun", "a.py", "0"]), replica(1, command=["torchrun", "a.py", "1"])),
        spec_of(2, "auto", {"command": ["torchrun", "a.py", "$(TORCHRUN_NODE_INDEX)"]}),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("source", "spec"), SPECS.values(), ids=SPECS)
def test_the_spec_that_a_job_becomes(source: dict[str, Any], spec: dict[str, Any]) -> None:
    assert yaml.safe_load(manifest_of(source))["spec"] == spec
