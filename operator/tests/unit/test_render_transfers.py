"""The pods that fetch inputs and upload outputs: their volumes, credentials and tasks; and the rules."""

import json
from typing import Any

import pytest

from builders import COLD, Manifest, make_job
from torchrun_operator.render.namespace import NamespaceRules
from torchrun_operator.render.node_pod import node_pod
from torchrun_operator.render.outputs_pod import outputs_pod
from torchrun_operator.render.transfer import Place, mounted, place
from torchrun_operator.render.validation import problems
from torchrun_transfer.task import Task, task_of

TRAINER: Manifest = {
    "name": "trainer",
    "image": "train:1",
    "imagePullPolicy": "Always",
    "command": ["torchrun", "train.py"],
    "env": [
        {"name": "AWS_ENDPOINT_URL", "value": "http://s3:7070"},
        {"name": "PATH", "value": "/opt/bin"},
        {"name": "EPOCHS", "value": "3"},
    ],
    "resources": {
        "requests": {"cpu": "4", "nvidia.com/gpu": 8},
        "limits": {"memory": "64Gi", "nvidia.com/gpu": 8},
    },
    "securityContext": {"runAsUser": 1000, "privileged": True},
    "volumeMounts": [{"name": "data", "mountPath": "/data", "subPath": "team"}],
}
TEMPLATE: Manifest = {
    "metadata": {"labels": {"queue": "main"}},
    "spec": {
        "serviceAccountName": "s3-writer",
        "nodeSelector": {"pool": "gpu"},
        "initContainers": [{"name": "unpack", "image": "unpack:1"}],
        "containers": [TRAINER],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    },
}
MINIMAL = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
    "runAsUser": 1000,
}
PROGRAM = {
    "name": "torchrun-transfer",
    "configMap": {"name": "digits-rdzv", "items": [{"key": "transfer.pyz", "path": "transfer.pyz"}]},
}
PROGRAM_MOUNT = {"name": "torchrun-transfer", "mountPath": "/torchrun-operator", "readOnly": True}
LABELS = {
    "queue": "main",
    "sidecar.istio.io/inject": "false",
    "torchrun.dev/job-name": "digits",
    "app.kubernetes.io/managed-by": "torchrun-operator",
}
OWNER = {"namespace": "team", "name": "digits", "uid": "job-uid"}


def env(task: Manifest, **variables: str) -> list[Manifest]:
    return [
        {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"},
        *({"name": name, "value": value} for name, value in variables.items()),
        {"name": "TORCHRUN_TRANSFER", "value": json.dumps({**task, "job": OWNER}, sort_keys=True)},
    ]


def test_inputs_are_fetched_before_all_else() -> None:
    inputs = [
        {"url": "s3://datasets/digits", "path": "/digits", "secretRef": {"name": "s3"}},
        {"url": "pvc://shared/faces", "path": "/data/faces"},
    ]
    pod = node_pod(make_job(template=TEMPLATE, inputs=inputs, **COLD), 1)
    common = {
        "image": "train:1",
        "imagePullPolicy": "Always",
        "command": ["python3", "/torchrun-operator/transfer.pyz", "fetch"],
        "resources": {"requests": {"cpu": "4"}, "limits": {"memory": "64Gi"}},
        "securityContext": MINIMAL,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    known = {"AWS_ENDPOINT_URL": "http://s3:7070", "PATH": "/opt/bin"}
    first = {"url": "s3://datasets/digits", "path": "/digits", "pod": "digits-1"}
    source = "/torchrun-operator-places/torchrun-input-1-source"
    second = {"url": f"file://{source}/faces", "path": "/data/faces", "pod": "digits-1"}
    assert pod["spec"]["initContainers"] == [
        {
            "name": "torchrun-input-0",
            **common,
            "env": env(first, **known),
            "envFrom": [{"secretRef": {"name": "s3"}}],
            "volumeMounts": [PROGRAM_MOUNT, {"name": "torchrun-input-0", "mountPath": "/digits"}],
        },
        {
            "name": "torchrun-input-1",
            **common,
            "env": env(second, **known),
            "volumeMounts": [
                PROGRAM_MOUNT,
                {"name": "data", "mountPath": "/data", "subPath": "team"},
                {"name": "torchrun-input-1-source", "mountPath": source, "readOnly": True},
            ],
        },
        {"name": "unpack", "image": "unpack:1"},
    ]
    assert pod["spec"]["volumes"] == [
        {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
        PROGRAM,
        {"name": "torchrun-input-0", "emptyDir": {}},
        {"name": "torchrun-input-1-source", "persistentVolumeClaim": {"claimName": "shared"}},
    ]
    assert pod["spec"]["containers"][0]["volumeMounts"] == [
        {"name": "data", "mountPath": "/data", "subPath": "team"},
        {"name": "torchrun-input-0", "mountPath": "/digits"},
    ]


def test_the_pod_that_uploads() -> None:
    outputs = [
        {"path": "/data/out", "url": "s3://results/a", "include": ["*.pt"], "secretRef": {"name": "s3"}},
        {"path": "/snapshots", "url": "nfs://server/export", "when": "Always", "exclude": ["$(HOME).tmp"]},
    ]
    job = make_job(template=TEMPLATE, snapshots={"claimName": "shots"}, outputs=outputs, transfer={"image": "move:1"})
    pod = outputs_pod(job, (0, 1), "digest", periodic=False)
    assert pod == _expected_pod(pod["metadata"])
    assert pod["metadata"]["annotations"]["torchrun.dev/outputs-digest"] == "digest"
    assert pod["metadata"]["ownerReferences"][0]["uid"] == "job-uid"


def _expected_pod(metadata: Manifest) -> Manifest:
    common = {
        "image": "move:1",
        "command": ["python3", "/torchrun-operator/transfer.pyz", "upload"],
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}},
        "securityContext": MINIMAL,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    target = "/torchrun-operator-places/torchrun-output-1-target"
    first = {"url": "s3://results/a", "path": "/data/out", "include": ["*.pt"], "exclude": []}
    second = {"url": f"file://{target}", "path": "/snapshots", "include": [], "exclude": ["$$(HOME).tmp"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **metadata,
            "name": "digits-outputs",
            "labels": {
                **LABELS,
                "torchrun.dev/role": "outputs",
            },
        },
        "spec": {
            "serviceAccountName": "s3-writer",
            "nodeSelector": {"pool": "gpu"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 5,
            "enableServiceLinks": False,
            "containers": [
                {
                    "name": "output-0",
                    **common,
                    "env": env(first, AWS_ENDPOINT_URL="http://s3:7070"),
                    "envFrom": [{"secretRef": {"name": "s3"}}],
                    "volumeMounts": [
                        PROGRAM_MOUNT,
                        {"name": "data", "mountPath": "/data", "subPath": "team", "readOnly": True},
                    ],
                },
                {
                    "name": "output-1",
                    **common,
                    "env": env(second, AWS_ENDPOINT_URL="http://s3:7070"),
                    "volumeMounts": [
                        PROGRAM_MOUNT,
                        {"name": "torchrun-snapshots", "mountPath": "/snapshots", "readOnly": True},
                        {"name": "torchrun-output-1-target", "mountPath": target},
                    ],
                },
            ],
            "volumes": [
                PROGRAM,
                {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "torchrun-snapshots", "persistentVolumeClaim": {"claimName": "shots"}},
                {"name": "torchrun-output-1-target", "nfs": {"server": "server", "path": "/export"}},
            ],
        },
    }


def test_the_pod_that_uploads_periodically() -> None:
    outputs = [
        {"path": "/data/a", "url": "s3://results/a", "when": "Periodic", "seconds": 60},
        {"path": "/data/b", "url": "s3://results/b"},
        {"path": "/data/c", "url": "file:///data/copy", "when": "Periodic"},
    ]
    job = make_job(template=TEMPLATE, outputs=outputs)
    rules = NamespaceRules(({"spec": {"limits": [{"type": "Container", "max": {"memory": "512Mi"}}]}},))
    containers = outputs_pod(job, (0, 2), "digest", periodic=True, rules=rules)["spec"]["containers"]
    assert [each["name"] for each in containers] == ["output-0", "output-2"]
    tasks = [task_of(each["env"][-1]["value"]) for each in containers]
    assert tasks == [
        Task("s3://results/a", "/data/a", every_seconds=60.0, job=OWNER),
        Task("file:///data/copy", "/data/c", every_seconds=300.0, job=OWNER),
    ]
    assert containers[0]["resources"]["limits"] == {"cpu": "2", "memory": "512Mi"}
    # The copy lies on the volume that it is read from.
    assert containers[1]["volumeMounts"][1:] == [{"name": "data", "mountPath": "/data", "subPath": "team"}]


@pytest.mark.parametrize(
    ("url", "read_only", "expected"),
    [
        ("s3://bucket/x", True, Place("s3://bucket/x")),
        (
            "pvc://claim", False,
            Place(
                "file:///torchrun-operator-places/v",
                ({"name": "v", "persistentVolumeClaim": {"claimName": "claim"}},),
                ({"name": "v", "mountPath": "/torchrun-operator-places/v"},),
            ),
        ),
        (
            "nfs://10.0.0.1/a/b", True,
            Place(
                "file:///torchrun-operator-places/v",
                ({"name": "v", "nfs": {"server": "10.0.0.1", "path": "/a/b", "readOnly": True}},),
                ({"name": "v", "mountPath": "/torchrun-operator-places/v", "readOnly": True},),
            ),
        ),
    ],
)  # fmt: skip
def test_places(url: str, read_only: bool, expected: Place) -> None:
    assert place(url, "v", read_only=read_only) == expected


@pytest.mark.parametrize(
    ("path", "name"),
    [("/data", "data"), ("/data/x", "data"), ("/database", None), ("/snapshots/a", "torchrun-snapshots"), ("/", None)],
)
def test_the_mount_of_a_path(path: str, name: str | None) -> None:
    found = mounted(make_job(template=TEMPLATE, snapshots={"claimName": "shots"}).spec, path)
    assert (found.mount["name"] if found else None) == name


def _with_volume(source: Manifest, **mount: Any) -> Manifest:
    trainer = {**TRAINER, "volumeMounts": [{"name": "v", "mountPath": "/v", **mount}]}
    return {"spec": {"containers": [trainer], "volumes": [{"name": "v", **source}]}}


@pytest.mark.parametrize(
    ("source", "mount", "accepted"),
    [
        ({"persistentVolumeClaim": {"claimName": "x"}}, {}, True),
        ({"nfs": {"server": "s", "path": "/x"}}, {}, True),
        ({"csi": {"driver": "smb.csi.k8s.io"}}, {}, True),
        ({"persistentVolumeClaim": {"claimName": "x"}}, {"subPathExpr": "$(POD_NAME)"}, False),
        ({"emptyDir": {}}, {}, False),
        ({"hostPath": {"path": "/x"}}, {}, False),
        ({"ephemeral": {}}, {}, False),
        ({"configMap": {"name": "x"}}, {}, False),
        ({}, {}, False),
    ],
)
def test_volumes_that_outlive_the_pods(source: Manifest, mount: Manifest, accepted: bool) -> None:
    job = make_job(template=_with_volume(source, **mount), outputs=[{"path": "/v/x", "url": "s3://results/x"}])
    assert [problem.field for problem in problems(job)] == ([] if accepted else ["spec.outputs[0].path"])
