"""The manifests of the objects of a job, as golden files, and rules for all of them."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from builders import COLD, DIGEST, job_manifest, make_job
from golden import check_golden
from torchrun_operator.api.lead import LeadPod
from torchrun_operator.api.v1alpha1 import TorchrunJob, job_of
from torchrun_operator.render.node_pod import node_pod
from torchrun_operator.render.objects import claims, prerequisites, services
from torchrun_operator.render.programs import Programs
from torchrun_operator.render.rendezvous_pod import rendezvous_pod

GOLDEN = Path(__file__).parent / "golden" / "render"

FULL: dict[str, Any] = {
    "nnodes": "2:8",
    "replicas": 4,
    "nprocPerNode": "gpu",
    "rendezvous": {"port": 29500, "conf": {"read_timeout": "120", "timeout": "900"}},
    "nccl": {"env": {"NCCL_IB_DISABLE": "1", "NCCL_DEBUG": "INFO"}, "configMapRef": {"name": "pool-nccl"}},
    "files": [
        {"path": "/workspace/train.py", "content": "print('train')\n"},
        {"path": "/etc/app/config.yaml", "content": "a: 1\n"},
    ],
    "snapshots": {
        "mountPath": "/snapshots",
        "volumeClaimTemplate": {
            "metadata": {"labels": {"tier": "fast"}, "annotations": {"backup": "no"}},
            "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "10Gi"}}},
        },
    },
    "template": {
        "metadata": {
            "labels": {"team": "vision", "torchrun.dev/node-index": "99"},
            "annotations": {"sidecar.istio.io/inject": "false"},
        },
        "spec": {
            "restartPolicy": "OnFailure",
            "serviceAccountName": "trainer",
            "nodeSelector": {"pool": "gpu"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "imagePullSecrets": [{"name": "registry"}],
            "priorityClassName": "training",
            "securityContext": {"runAsUser": 1000, "fsGroup": 1000},
            "affinity": {"podAntiAffinity": {}},
            "schedulerName": "bin-packing",
            "initContainers": [{"name": "fetch", "image": "fetch:1"}],
            "containers": [
                {"name": "sidecar", "image": "logs:1", "env": [{"name": "LEVEL", "value": "info"}]},
                {
                    "name": "trainer",
                    "image": "train:1",
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["torchrun", "/workspace/train.py"],
                    "env": [{"name": "EPOCHS", "value": "10"}, {"name": "WHO", "value": "$(POD_NAME)"}],
                    "envFrom": [{"secretRef": {"name": "tokens"}}],
                    "resources": {"limits": {"nvidia.com/gpu": 8}},
                    "securityContext": {"allowPrivilegeEscalation": False},
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                },
            ],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "digits"}}],
        },
    },
}
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
PROGRAMS = Programs(rendezvous=b"the rendezvous host", launcher=b"the launcher", transfer=b"the transfer program")
MINIMAL, WHOLE = make_job(), job_of(job_manifest(**copy.deepcopy(FULL)))
WARM = make_job(elasticity={"spares": 1, "preload": ["numpy", "torchvision"]})
UNLOADED = make_job(**COLD)
CLAIMED = make_job(snapshots={"mountPath": "/ckpt", "claimName": "shared"})
STATIC = make_job(
    nnodes=3,
    replicas=3,
    nprocPerNode=2,
    rendezvous={"backend": "static", "conf": {"timeout": "900"}},
    lead={
        "command": ["torchrun", "lead.py"],
        "env": [{"name": "EPOCHS", "value": "1"}, {"name": "LEADS", "value": "$(NNODES)"}],
        "resources": {"limits": {"cpu": 2}},
    },
    template={
        "spec": {
            "hostAliases": [{"ip": "10.1.2.3", "hostnames": ["data"]}],
            "containers": [
                {
                    "name": "trainer",
                    "image": "train:1",
                    "command": ["torchrun", "--node_rank=$(NODE_RANK)", "train.py"],
                    "args": ["--epochs=$(EPOCHS)"],
                    "env": [{"name": "EPOCHS", "value": "10"}],
                }
            ],
        }
    },
)
ALONE = make_job(nnodes=1, replicas=1, rendezvous={"backend": "static"})
OWNER = {
    "apiVersion": "torchrun.dev/v1alpha1",
    "kind": "TorchrunJob",
    "name": "digits",
    "uid": "job-uid",
    "controller": True,
    "blockOwnerDeletion": True,
}


def owned(job: TorchrunJob) -> list[dict[str, Any]]:
    return [*services(job), *prerequisites(job, PROGRAMS, "torchrun-system"), *claims(job)]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("node-minimal", node_pod(MINIMAL, 0)),
        ("node-full", node_pod(WHOLE, 3)),
        ("node-with-claim", node_pod(CLAIMED, 1)),
        ("rendezvous-minimal", rendezvous_pod(MINIMAL, DIGEST)),
        ("rendezvous-full", rendezvous_pod(WHOLE, DIGEST)),
        ("objects-minimal", owned(MINIMAL)),
        ("objects-full", owned(WHOLE)),
        ("objects-with-claim", owned(CLAIMED)),
        ("node-warm", node_pod(WARM, 0)),
        ("node-cold", node_pod(UNLOADED, 0)),
        ("objects-warm", owned(WARM)),
        ("node-static-lead", node_pod(STATIC, 0)),
        ("node-static", node_pod(STATIC, 2, "digits-2-r2", LeadPod("pod-0", "10.0.0.7"))),
        ("node-static-alone", node_pod(ALONE, 0)),
        ("objects-static", owned(STATIC)),
    ],
)
def test_manifests(name: str, found: Any) -> None:
    check_golden(GOLDEN / f"{name}.yaml", json.loads(json.dumps(found)))


def everything(job: TorchrunJob) -> list[dict[str, Any]]:
    return [*owned(job), node_pod(job, 0), node_pod(job, 1), rendezvous_pod(job, DIGEST)]


@pytest.mark.parametrize("job", [MINIMAL, WHOLE, CLAIMED, WARM], ids=["minimal", "full", "with a claim", "warm"])
def test_every_object_belongs_to_the_job(job: TorchrunJob) -> None:
    for manifest in everything(job):
        metadata = manifest["metadata"]
        assert metadata["ownerReferences"] == [OWNER]
        assert metadata["namespace"] == job.namespace
        assert metadata["labels"]["torchrun.dev/job-name"] == job.name


@pytest.mark.parametrize("job", [MINIMAL, WHOLE, CLAIMED, WARM], ids=["minimal", "full", "with a claim", "warm"])
def test_the_job_is_not_changed_nor_shared(job: TorchrunJob) -> None:
    before = copy.deepcopy(job.model_dump())
    once = everything(job)
    reference = copy.deepcopy(once)
    for manifest in once:
        _scribble(manifest)
    assert job.model_dump() == before
    assert everything(job) == reference


def _scribble(value: Any) -> None:
    """Replace all values inside."""
    if isinstance(value, dict):
        for inner in value.values():
            _scribble(inner)
        value["scribble"] = True
    elif isinstance(value, list):
        for inner in value:
            _scribble(inner)
        value.append("scribble")


def trainer(pod: dict[str, Any]) -> dict[str, Any]:
    return next(container for container in pod["spec"]["containers"] if container["name"] == "trainer")


def test_what_the_template_says_is_kept() -> None:
    pod, given = node_pod(WHOLE, 3), FULL["template"]["spec"]
    ours = {"restartPolicy", "containers", "volumes"}
    assert {key: pod["spec"][key] for key in given if key not in ours} == {
        key: value for key, value in given.items() if key not in ours
    }
    assert pod["spec"]["containers"][0] == given["containers"][0]
    assert pod["spec"]["volumes"][: len(given["volumes"])] == given["volumes"]
    assert trainer(pod)["env"][-2:] == given["containers"][1]["env"]
    assert trainer(pod)["volumeMounts"][0] == {"name": "data", "mountPath": "/data"}


def test_the_wiring_of_torchrun() -> None:
    """The values that the rendezvous depends on. They are written here too, because a golden file is easily updated."""
    env = {entry["name"]: entry.get("value") for entry in trainer(node_pod(WHOLE, 3))["env"]}
    assert env["PET_NNODES"] == "2:1048576"
    assert env["PET_RDZV_ENDPOINT"] == "digits-rdzv:29500"
    assert env["PET_RDZV_CONF"] == (
        "is_host=0,join_timeout=86400,last_call_timeout=86400,keep_alive_interval=2,keep_alive_max_attempt=43200,"
        "read_timeout=120,timeout=900"
    )
    assert env["TORCHRUN_NODE_INDEX"] == "3"


def test_the_user_decides_about_the_fault_handler() -> None:
    job = copy.deepcopy(WHOLE)
    job.spec.trainer["env"].append({"name": "PYTHONFAULTHANDLER", "value": ""})
    found = [entry for entry in trainer(node_pod(job, 0))["env"] if entry["name"] == "PYTHONFAULTHANDLER"]
    assert found == [{"name": "PYTHONFAULTHANDLER", "value": ""}]


def test_variables_come_before_those_that_refer_to_them() -> None:
    names = [entry["name"] for entry in trainer(node_pod(WHOLE, 3))["env"]]
    assert names[0] == "POD_IP"
    assert names.index("POD_NAME") < names.index("WHO")


def test_only_the_index_differs_between_nodes() -> None:
    first, second = json.dumps(node_pod(WHOLE, 0)), json.dumps(node_pod(WHOLE, 7))
    replaced = first.replace("digits-0", "digits-7").replace(
        '"torchrun.dev/node-index": "0"', '"torchrun.dev/node-index": "7"'
    )
    assert replaced.replace('"TORCHRUN_NODE_INDEX", "value": "0"', '"TORCHRUN_NODE_INDEX", "value": "7"') == second


def test_the_rendezvous_pod_knows_no_secret() -> None:
    text = json.dumps(rendezvous_pod(WHOLE, DIGEST))
    assert text.count(DIGEST) == 2
    assert "tokens" not in text
    assert "nvidia" not in json.dumps(rendezvous_pod(WHOLE, DIGEST)["spec"]["containers"])


def _of_labels(*keys: str) -> dict[str, Any]:
    return {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": dict.fromkeys(keys, "x")}}


_LABELS = {"queue": "x", "run": "x", "tier": "x"}
_EXPRESSION = {"labelSelector": {"matchExpressions": [{"key": "run", "operator": "Exists"}]}}


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ({}, {"queue", "run", "tier"}),
        ({"affinity": None}, {"queue", "run", "tier"}),
        ({"affinity": {"podAffinity": {REQUIRED: [_of_labels("run")]}}}, {"queue", "run", "tier"}),
        ({"affinity": {"podAntiAffinity": {REQUIRED: [_of_labels("run"), _of_labels("tier")]}}}, {"queue"}),
        ({"affinity": {"podAntiAffinity": {REQUIRED: [{"topologyKey": "zone", **_EXPRESSION}]}}}, {"queue", "tier"}),
        (
            {"affinity": {"podAntiAffinity": {PREFERRED: [{"weight": 1, "podAffinityTerm": _of_labels("run")}]}}},
            {"queue", "tier"},
        ),
        ({"topologySpreadConstraints": [{"matchLabelKeys": ["tier"], **_of_labels("run")}]}, {"queue"}),
        ({"topologySpreadConstraints": [{"topologyKey": "zone"}]}, {"queue", "run", "tier"}),
    ],
)
def test_what_keeps_nodes_apart_does_not_keep_them_off_the_kubernetes_node_of_the_rendezvous_pod(
    rules: dict[str, Any], kept: set[str]
) -> None:
    manifest = job_manifest()
    manifest["spec"]["template"]["metadata"] = {"labels": _LABELS}
    manifest["spec"]["template"]["spec"] |= rules
    labels = rendezvous_pod(job_of(manifest), DIGEST)["metadata"]["labels"]
    assert {key for key in labels if key in _LABELS} == kept


_LEAD = {"command": ["bash", "lead.sh"]}
_SLEEP = {"exec": {"command": ["sleep", "1"]}}


def first(python: str, *command: str) -> dict[str, Any]:
    return {"command": [python, "/torchrun-operator/python", "--first", *command]}


def early(program: str) -> dict[str, Any]:
    return {"postStart": {"exec": {"command": ["/torchrun-operator/python", "--start", program]}}}


@pytest.mark.parametrize(
    ("container", "lead", "changed"),
    [
        ({"command": ["torchrun", "train.py"]}, None, first("python3", "torchrun", "train.py")),
        ({"command": ["/venv/bin/torchrun"], "args": ["a.py"]}, None, first("python3", "/venv/bin/torchrun")),
        (
            {"command": ["python3.12", "-m", "torch.distributed.run", "train.py"]},
            None,
            first("python3.12", "python3.12", "-m", "torch.distributed.run", "train.py"),
        ),
        (
            {"command": ["/venv/bin/python"], "args": ["-m", "torch.distributed.run"]},
            None,
            first("/venv/bin/python", "/venv/bin/python"),
        ),
        ({"command": ["torchrun"], "lifecycle": {"postStart": _SLEEP}}, None, first("python3", "torchrun")),
        ({"args": ["torchrun", "train.py"]}, None, {"lifecycle": early("torchrun")}),
        (
            {"args": ["torchrun"], "lifecycle": {"preStop": _SLEEP}},
            None,
            {"lifecycle": {"preStop": _SLEEP, **early("torchrun")}},
        ),
        ({"args": ["torchrun"], "lifecycle": {"postStart": _SLEEP}}, None, {}),
        ({"command": ["python3", "train.py"]}, None, {}),
        (
            {"command": ["bash", "-c", "pip install x && torchrun train.py"]},
            None,
            {"command": ["bash", "-c", "pip install x && /torchrun-operator/python --first torchrun train.py"]},
        ),
        ({"command": ["bash", "train.sh"]}, None, {}),
        ({}, None, {}),
        ({"command": ["torchrun", "train.py"]}, _LEAD, {**_LEAD, "args": []}),
        (_LEAD, {"command": ["torchrun"], "args": ["a.py"]}, {**first("python3", "torchrun"), "args": ["a.py"]}),
    ],
)
def test_a_node_with_warm_starts_loads_torch_first_where_the_command_is_torchrun(
    container: dict[str, Any], lead: dict[str, Any] | None, changed: dict[str, Any]
) -> None:
    given = {"name": "trainer", "image": "train:1", **container}
    job = make_job(elasticity={"spares": 1}, template={"spec": {"containers": [given]}}, lead=lead)
    found = trainer(node_pod(job, 0))
    assert {key: value for key, value in found.items() if key not in ("env", "volumeMounts")} == {**given, **changed}


@pytest.mark.parametrize(
    ("container", "asked", "warm"),
    [
        ({"command": ["torchrun", "train.py"]}, {}, True),
        ({"command": ["bash", "-c", "torchrun train.py"]}, {}, True),
        ({"args": ["torchrun", "train.py"]}, {}, False),
        ({"args": ["torchrun", "train.py"]}, {"spares": 1}, True),
        ({"args": ["torchrun", "train.py"]}, {"spares": 1, "warmStart": False}, False),
        ({"command": ["accelerate", "launch", "train.py"]}, {}, False),
        ({"command": ["accelerate", "launch", "train.py"]}, {"preload": ["numpy"]}, True),
        ({}, {}, False),
    ],
)
def test_a_command_without_torchrun_starts_warm_only_if_the_job_asks_for_it(
    container: dict[str, Any], asked: dict[str, Any], warm: bool
) -> None:
    given = {"name": "trainer", "image": "train:1", **container}
    job = make_job(elasticity=asked, template={"spec": {"containers": [given]}})
    assert any(variable["name"] == "PYTHON_EXEC" for variable in trainer(node_pod(job, 0))["env"]) is warm


@pytest.mark.parametrize("other", [{"command": ["/opt/venv/bin/python3"]}, {"image": "with-torch:1"}])
def test_the_launcher_looks_for_a_python_where_the_rendezvous_pod_has_one_of_its_own(other: dict[str, Any]) -> None:
    template = {"spec": {"containers": [{"name": "rendezvous", **other}]}}
    given = {"name": "trainer", "image": "train:1", "command": ["/opt/venv/bin/torchrun", "train.py"]}
    job = make_job(rendezvous={"template": template}, template={"spec": {"containers": [given]}})
    command = ["/torchrun-operator/python", "--first", "/opt/venv/bin/torchrun", "train.py"]
    assert trainer(node_pod(job, 0))["command"] == command


@pytest.mark.parametrize(
    ("workers", "command", "identical"),
    [
        (1, ["torchrun", "train.py"], True),
        (8, ["bash", "-c", "torchrun train.py"], True),
        (8, ["bash", "-c", "torchrun --nproc_per_node=$(nvidia-smi -L | wc -l) train.py"], False),
        (8, ["bash", "-c", "torchrun --nproc-per-node gpu train.py"], False),
        ("gpu", ["torchrun", "train.py"], False),
        ("cpu", ["torchrun", "train.py"], False),
        ("auto", ["torchrun", "train.py"], False),
    ],
)
def test_nodes_are_called_identical_only_if_they_are(workers: Any, command: list[str], identical: bool) -> None:
    """Otherwise agents on Kubernetes nodes with different numbers of GPUs would give ranks twice."""
    containers = [{"name": "trainer", "image": "train:1", "command": command}]
    job = make_job(nprocPerNode=workers, template={"spec": {"containers": containers}})
    env = {entry["name"]: entry.get("value") for entry in trainer(node_pod(job, 0))["env"]}
    assert env.get("TORCH_ELASTIC_WORKER_IDENTICAL") == ("1" if identical else None)
    assert env["PET_NPROC_PER_NODE"] == str(workers)


def test_a_lead_that_counts_its_workers_itself_is_not_identical() -> None:
    job = make_job(nprocPerNode=8, lead={"args": ["-c", "torchrun --nproc_per_node=$(count) train.py"]})
    for index in range(2):
        names = {entry["name"] for entry in trainer(node_pod(job, index))["env"]}
        assert "TORCH_ELASTIC_WORKER_IDENTICAL" not in names
