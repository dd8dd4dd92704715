"""The rendezvous pod: where it runs, as which user, with which resources, and what a job may choose."""

from typing import Any

import pytest

from builders import DIGEST, job_manifest
from torchrun_operator.api.v1alpha1 import job_of
from torchrun_operator.render.limits import Need, fitting, quantity, written
from torchrun_operator.render.namespace import NamespaceRules
from torchrun_operator.render.placement import placement
from torchrun_operator.render.rendezvous_pod import rendezvous_pod

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
REQUESTS = {"cpu": "50m", "memory": "512Mi"}
LIMITS = {"cpu": "2", "memory": "2Gi"}
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
HOST = "kubernetes.io/hostname"


def pod(template: Any = None, *limits: Any, spec: Any = None, metadata: Any = None, **trainer: Any) -> dict[str, Any]:
    """Return the rendezvous pod of a job with this spec.rendezvous.template, pod template and trainer."""
    manifest = job_manifest()
    nodes = manifest["spec"]["template"]
    nodes["spec"] |= spec or {}
    nodes["spec"]["containers"][0] |= trainer
    nodes |= {"metadata": metadata} if metadata else {}
    manifest["spec"]["rendezvous"] = {"template": template} if template is not None else {}
    ranges = NamespaceRules(limit_ranges=tuple({"spec": {"limits": [each]}} for each in limits))
    return rendezvous_pod(job_of(manifest), DIGEST, ranges)


def container(*args: Any, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = pod(*args, **changes)["spec"]["containers"][0]
    return found


def pinned(*names: str) -> dict[str, Any]:
    return {"key": HOST, "operator": "In", "values": [*names]}


def required(*terms: Any) -> dict[str, Any]:
    return {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [*terms]}}}}


def preferred(*terms: Any) -> dict[str, Any]:
    return {PREFERRED: [{"weight": 100, "preference": term} for term in terms]}


ZONE = {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["a"]}
BROKEN = {"key": HOST, "operator": "NotIn", "values": ["broken"]}
FIELD = {"key": "metadata.name", "operator": "In", "values": ["node1"]}
GPU = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


PLACES = [
    pytest.param({}, {}, id="anywhere"),
    pytest.param(
        {"nodeSelector": {"kubernetes.io/arch": "arm64", "pool": "gpu"}},
        {"nodeSelector": {"kubernetes.io/arch": "arm64", "pool": "gpu"}},
        id="architecture and pool",
    ),
    pytest.param(
        {"nodeSelector": {HOST: "node1"}},
        {"affinity": {"nodeAffinity": preferred({"matchExpressions": [pinned("node1")]})}},
        id="one Kubernetes node, which may be full",
    ),
    pytest.param(
        required({"matchExpressions": [ZONE, pinned("node1")]}, {"matchFields": [FIELD], "matchExpressions": [BROKEN]}),
        {
            "affinity": {
                "nodeAffinity": {
                    REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [ZONE]}, {"matchExpressions": [BROKEN]}]},
                    **preferred({"matchExpressions": [pinned("node1")]}, {"matchFields": [FIELD]}),
                }
            }
        },
        id="terms, with and without names",
    ),
    pytest.param(
        required({"matchExpressions": [ZONE]}, {"matchExpressions": [pinned("node1", "node2")]}),
        {"affinity": {"nodeAffinity": preferred({"matchExpressions": [pinned("node1", "node2")]})}},
        id="one term of names only: no other term is needed either",
    ),
    pytest.param(
        {
            "affinity": {
                "podAffinity": {REQUIRED: [{"topologyKey": "rack"}]},
                "nodeAffinity": {PREFERRED: [{"weight": 1, "preference": {"matchExpressions": [ZONE]}}]},
            },
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": HOST, "whenUnsatisfiable": "DoNotSchedule"}],
            "schedulerName": "gang",
        },
        {},
        id="what is about the nodes",
    ),
    pytest.param(
        {
            "tolerations": [{"key": "team", "operator": "Exists"}],
            "initContainers": [{"resources": {"requests": {"vendor.com/nic": 1, "hugepages-2Mi": "2Mi"}}}],
            "containers": [{"resources": {"limits": {"nvidia.com/gpu": 8, "cpu": 4, "requests.kubernetes.io/x": 1}}}],
        },
        {
            "tolerations": [
                {"key": "team", "operator": "Exists"},
                GPU,
                {"key": "vendor.com/nic", "operator": "Exists", "effect": "NoSchedule"},
            ]
        },
        id="taints of the devices of the nodes, which only pods with devices tolerate by themselves",
    ),
    pytest.param(
        {"tolerations": [GPU], "containers": [{"resources": {"limits": {"nvidia.com/gpu": 1}}}]},
        {"tolerations": [GPU]},
        id="once",
    ),
]


@pytest.mark.parametrize(("spec", "expected"), PLACES)
def test_it_runs_where_the_image_of_the_nodes_runs(spec: dict[str, Any], expected: dict[str, Any]) -> None:
    assert placement(spec) == expected


def _limits(kind: str = "Container", **bounds: dict[str, str]) -> dict[str, Any]:
    return {"type": kind, **bounds}


@pytest.mark.parametrize(
    ("limits", "requests", "expected"),
    [
        ([], REQUESTS, LIMITS),
        (
            [_limits(max={"cpu": "1", "memory": "1Gi"})],
            REQUESTS,
            {"cpu": "1", "memory": "1Gi"},
        ),
        ([_limits("Pod", max={"cpu": "1500m"})], REQUESTS, {"cpu": "1500m", "memory": "2Gi"}),
        (
            [_limits(min={"cpu": "100m", "memory": "1Gi"})],
            {"cpu": "100m", "memory": "1Gi"},
            LIMITS,
        ),
        ([_limits(min={"cpu": "4"})], {"cpu": "4", "memory": "512Mi"}, {"cpu": "4", "memory": "2Gi"}),
        (
            [_limits(maxLimitRequestRatio={"cpu": "20"})],
            REQUESTS,
            {"cpu": "1", "memory": "2Gi"},
        ),
        (
            [_limits(maxLimitRequestRatio={"cpu": "4", "memory": "1"})],
            {"cpu": "125m", "memory": "1Gi"},
            {"cpu": "500m", "memory": "1Gi"},
        ),
        ([_limits(max={"memory": "256Mi"})], {"cpu": "50m", "memory": "256Mi"}, {"cpu": "2", "memory": "256Mi"}),
        (
            [
                _limits(max={"cpu": "1"}),
                _limits(max={"cpu": "800m"}, min={"cpu": "60m"}),
                _limits("PersistentVolumeClaim", max={"storage": "1Gi"}),
            ],
            {"cpu": "60m", "memory": "512Mi"},
            {"cpu": "800m", "memory": "2Gi"},
        ),
        (
            [_limits(default={"cpu": "1"}, defaultRequest={"cpu": "1"})],
            REQUESTS,
            LIMITS,
        ),
    ],
)
def test_its_resources_fit_limit_ranges(limits: list[Any], requests: dict[str, str], expected: dict[str, str]) -> None:
    assert container(None, *limits)["resources"] == {"requests": requests, "limits": expected}


@pytest.mark.parametrize(
    ("given", "requests", "limits"),
    [
        ({"requests": {"cpu": "1"}}, {"cpu": "1", "memory": "512Mi"}, LIMITS),
        ({"requests": {"cpu": "4"}}, {"cpu": "4", "memory": "512Mi"}, {"cpu": "4", "memory": "2Gi"}),
        ({"limits": {"memory": "300Mi"}}, {"cpu": "50m", "memory": "300Mi"}, {"cpu": "2", "memory": "300Mi"}),
        (
            {"limits": {"ephemeral-storage": "1Gi"}},
            REQUESTS,
            {"cpu": "2", "memory": "2Gi", "ephemeral-storage": "1Gi"},
        ),
    ],
)
def test_a_job_may_set_some_resources(given: Any, requests: dict[str, str], limits: dict[str, str]) -> None:
    template = {"spec": {"containers": [{"name": "rendezvous", "resources": given}]}}
    assert container(template)["resources"] == {"requests": requests, "limits": limits}


def test_it_names_storage_where_the_trainer_does_because_a_quota_may_ask_for_it() -> None:
    found = container(resources={"limits": {"ephemeral-storage": "10Gi", "nvidia.com/gpu": 8}})["resources"]
    assert found == {
        "requests": {"cpu": "50m", "memory": "512Mi", "ephemeral-storage": "64Mi"},
        "limits": {"cpu": "2", "memory": "2Gi", "ephemeral-storage": "1Gi"},
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        (2, 2),
        (0.5, 0.5),
        ("100m", 0.1),
        ("1e3", 1000),
        ("1E", 10**18),
        ("2Ki", 2048),
        ("1.5Gi", 1.5 * 2**30),
        ("3k", 3000),
    ],
)
def test_quantities(text: object, value: float) -> None:
    assert float(quantity(text)) == value


@pytest.mark.parametrize("text", ["", "x", "1Zi", "Mi", "1-Gi"])
def test_no_quantities(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        quantity(text)


def test_quantities_are_written_in_full() -> None:
    one, byte = quantity("1m"), quantity("1")
    assert [written(quantity(text), one) for text in ("50m", "2", "1500m")] == ["50m", "2", "1500m"]
    assert [written(quantity(text), byte) for text in ("2Gi", "1536Mi", "3Ki", "1001")] == [
        "2Gi",
        "1536Mi",
        "3Ki",
        "1001",
    ]
    need = Need(quantity("1"), quantity("10"), quantity("2"), quantity("1"))
    assert fitting(need, "cpu", [{"spec": None}, {}]) == (need.request, need.limit)


MINIMAL = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
PRIVILEGED = {
    "privileged": True,
    "allowPrivilegeEscalation": True,
    "capabilities": {"add": ["SYS_ADMIN"]},
    "seccompProfile": {"type": "Unconfined"},
    "procMount": "Unmasked",
    "runAsUser": 0,
    "readOnlyRootFilesystem": True,
}


def test_it_has_no_rights_that_the_trainer_has_beyond_its_user() -> None:
    own = {
        "sysctls": [{"name": "x", "value": "1"}],
        "seccompProfile": {"type": "Unconfined"},
        "runAsUser": 7,
        "fsGroup": 8,
    }
    found = pod(spec={"securityContext": own, "hostPID": True, "hostIPC": True}, securityContext=PRIVILEGED)["spec"]
    assert found["securityContext"] == {"runAsUser": 7, "fsGroup": 8}
    assert found["containers"][0]["securityContext"] == {**MINIMAL, "runAsUser": 0, "readOnlyRootFilesystem": True}
    assert not {"hostPID", "hostIPC"} & set(found)


def test_it_sees_no_device() -> None:
    found = container(
        resources={"limits": {"nvidia.com/gpu": 8}}, env=[{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]
    )
    assert found["env"][0] == {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}
    assert set(found["resources"]["limits"]) == {"cpu", "memory"}


def test_it_has_the_environment_that_finds_torch() -> None:
    env = [
        {"name": "PATH", "value": "/opt/conda/bin:/bin"},
        {"name": "PYTHONPATH", "value": "/libs"},
        {"name": "WANDB_API_KEY", "value": "secret"},
        {"name": "LD_LIBRARY_PATH", "valueFrom": {"secretKeyRef": {"name": "x", "key": "y"}}},
    ]
    names = {entry["name"]: entry["value"] for entry in container(env=env)["env"]}
    assert (names["PATH"], names["PYTHONPATH"]) == ("/opt/conda/bin:/bin", "/libs")
    assert not {"WANDB_API_KEY", "LD_LIBRARY_PATH"} & set(names)


PROGRAM = "/torchrun-operator/rendezvous.pyz"


@pytest.mark.parametrize(
    ("command", "given", "expected"),
    [
        (["torchrun", "train.py"], None, ["python3", PROGRAM, "--search"]),
        (["/opt/venv/bin/torchrun", "train.py"], None, ["python3", PROGRAM, "--search", "/opt/venv/bin"]),
        (
            ["/opt/conda/bin/python", "-m", "torch.distributed.run", "/data/bin/train.py"],
            None,
            ["/opt/conda/bin/python", PROGRAM, "--search", "/opt/conda/bin", "/data/bin"],
        ),
        (
            [
                "bash",
                "-c",
                "source /opt/env-1/bin/activate; PATH=/a/bin:$PATH x/bin/y torchrun '/b/bin/z' && ls $HOME/bin",
            ],
            None,
            ["python3", PROGRAM, "--search", "/opt/env-1/bin", "/a/bin", "/b/bin"],
        ),
        (["torchrun", "train.py"], ["/opt/venv/bin/python", "-u"], ["/opt/venv/bin/python", "-u", PROGRAM]),
    ],
)
def test_its_python(command: list[str], given: list[str] | None, expected: list[str]) -> None:
    template = {"spec": {"containers": [{"name": "rendezvous", "command": given}]}} if given else None
    assert container(template, command=command)["command"] == expected


def test_labels_of_the_nodes_are_kept_and_annotations_are_not() -> None:
    """Annotations instruct injectors, some of which check the name of the container."""
    given = {
        "labels": {"team": "vision", "sidecar.istio.io/inject": "true"},
        "annotations": {"container.apparmor.security.beta.kubernetes.io/trainer": "unconfined"},
    }
    found = pod(metadata=given)["metadata"]
    assert found["labels"] == {
        "team": "vision",
        "sidecar.istio.io/inject": "false",
        "torchrun.dev/job-name": "digits",
        "torchrun.dev/role": "rendezvous",
        "app.kubernetes.io/managed-by": "torchrun-operator",
    }
    assert {key for key in found["annotations"] if not key.startswith("torchrun.dev/")} == {
        "cluster-autoscaler.kubernetes.io/safe-to-evict",
        "karpenter.sh/do-not-disrupt",
        "sidecar.istio.io/inject",
        "linkerd.io/inject",
    }


def test_what_a_job_says_about_it_comes_first() -> None:
    template: dict[str, Any] = {
        "metadata": {
            "labels": {"team": "infra"},
            "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "true"},
        },
        "spec": {
            "nodeSelector": {"pool": "cpu"},
            "tolerations": [],
            "affinity": {"nodeAffinity": {}},
            "priorityClassName": "high",
            "serviceAccountName": "small",
            "imagePullSecrets": [{"name": "other"}],
            "securityContext": {"runAsUser": 9},
            "topologySpreadConstraints": [],
            "schedulerName": "own",
            "containers": [
                {
                    "name": "rendezvous",
                    "image": "torch:cpu",
                    "imagePullPolicy": "Always",
                    "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "none"}],
                    "securityContext": {"runAsNonRoot": True},
                }
            ],
        },
    }
    nodes = {
        "nodeSelector": {"pool": "gpu", HOST: "node1"},
        "tolerations": [GPU],
        "priorityClassName": "low",
        "serviceAccountName": "trainer",
        "runtimeClassName": "nvidia",
        "securityContext": {"runAsUser": 1},
    }
    found = pod(template, spec=nodes, metadata={"labels": {"team": "vision"}}, imagePullPolicy="Never")
    spec, only = found["spec"], found["spec"]["containers"][0]
    chosen = {key: value for key, value in template["spec"].items() if key != "containers"}
    assert {key: spec[key] for key in chosen} == chosen
    assert spec["runtimeClassName"] == "nvidia"
    assert (found["metadata"]["labels"]["team"], only["image"], only["imagePullPolicy"]) == (
        "infra",
        "torch:cpu",
        "Always",
    )
    assert found["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "true"
    assert only["env"][-1] == {"name": "NVIDIA_VISIBLE_DEVICES", "value": "none"}
    assert {"name": "RDZV_IMAGE", "value": "torch:cpu"} in only["env"]
    assert only["securityContext"] == {**MINIMAL, "runAsNonRoot": True}
