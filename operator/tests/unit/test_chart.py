"""The Helm chart: what it makes of values, what it refuses, and that the operator gets no right it does not need.

Needs helm on PATH, as `make test` arranges it.
"""

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from torchrun_operator.api.v1alpha1.job import job_of
from torchrun_operator.render.validation import problems
from torchrun_operator.settings import Settings

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "torchrun-operator"
CRD = CHART / "files" / "torchrun.dev_torchrunjobs.yaml"
RELEASE = "rel"
NAME = "rel-torchrun-operator"
NAMESPACE = "ops"

Objects = dict[str, dict[str, Any]]
Values = Mapping[str, Any]
Helm = Callable[..., "subprocess.CompletedProcess[str]"]
Render = Callable[..., Objects]

SELECTOR = {"app.kubernetes.io/name": "torchrun-operator", "app.kubernetes.io/instance": RELEASE}
LABELS = SELECTOR | {
    "app.kubernetes.io/version": "0.1.0",
    "app.kubernetes.io/managed-by": "Helm",
    "helm.sh/chart": "torchrun-operator-0.1.0",
}
COMPONENT = {"torchrun.dev/component": "operator"}
RULES = [
    {"apiGroups": ["torchrun.dev"], "resources": ["torchrunjobs"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": ["torchrun.dev"], "resources": ["torchrunjobs/status"], "verbs": ["patch"]},
    {"apiGroups": ["torchrun.dev"], "resources": ["torchrunjobs/finalizers"], "verbs": ["update"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "create", "delete"]},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    {
        "apiGroups": [""],
        "resources": ["services", "configmaps", "persistentvolumeclaims"],
        "verbs": ["get", "create", "patch"],
    },
    {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["get", "create", "patch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
]
ENV = {
    "TORCHRUN_OPERATOR_WATCH_NAMESPACES": "",
    "TORCHRUN_OPERATOR_WORKERS": "16",
    "TORCHRUN_OPERATOR_RESYNC_SECONDS": "300",
    "TORCHRUN_OPERATOR_MIN_RECONCILE_INTERVAL": "0.2",
    "TORCHRUN_OPERATOR_PROGRESS_INTERVAL": "5",
    "TORCHRUN_OPERATOR_STUCK_SECONDS": "120",
    "TORCHRUN_OPERATOR_NAMESPACE": {"fieldRef": {"fieldPath": "metadata.namespace"}},
    "TORCHRUN_OPERATOR_HTTP_PORT": "8080",
    "TORCHRUN_OPERATOR_KEY_FILE": "/etc/torchrun-operator/rendezvous/key",
    "TORCHRUN_OPERATOR_LOG_LEVEL": "INFO",
    "TORCHRUN_OPERATOR_LOG_FORMAT": "json",
}
DEFAULT_POD = {
    "serviceAccountName": NAME,
    "automountServiceAccountToken": True,
    "enableServiceLinks": False,
    "securityContext": {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    },
    "terminationGracePeriodSeconds": 30,
    "containers": [
        {
            "name": "operator",
            "image": "torchrun-operator:0.1.0",
            "imagePullPolicy": "IfNotPresent",
            "env": [
                {"name": name, "value" if isinstance(value, str) else "valueFrom": value} for name, value in ENV.items()
            ],
            "ports": [{"name": "http", "containerPort": 8080}],
            "livenessProbe": {
                "httpGet": {"path": "/healthz", "port": "http"},
                "initialDelaySeconds": 10,
                "periodSeconds": 10,
                "timeoutSeconds": 5,
                "failureThreshold": 3,
            },
            "readinessProbe": {
                "httpGet": {"path": "/readyz", "port": "http"},
                "periodSeconds": 2,
                "timeoutSeconds": 5,
            },
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "resources": {"requests": {"cpu": "100m", "memory": "192Mi"}, "limits": {"memory": "1Gi"}},
            "volumeMounts": [
                {"name": "rendezvous-key", "mountPath": "/etc/torchrun-operator/rendezvous", "readOnly": True}
            ],
        }
    ],
    "volumes": [
        {
            "name": "rendezvous-key",
            "secret": {
                "secretName": f"{NAME}-rendezvous",
                "defaultMode": 0o440,
                "items": [{"key": "key", "path": "key"}],
            },
        }
    ],
}


def title(manifest: dict[str, Any]) -> str:
    namespace = manifest["metadata"].get("namespace", NAMESPACE)
    name = f"{manifest['kind']}/{manifest['metadata']['name']}"
    return name if namespace == NAMESPACE else f"{name}@{namespace}"


def pod(objects: Objects, name: str = NAME) -> dict[str, Any]:
    spec: dict[str, Any] = objects[f"Deployment/{name}"]["spec"]["template"]["spec"]
    return spec


def env(objects: Objects) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in pod(objects)["containers"][0]["env"]}


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    program = shutil.which("helm")
    if program is None:
        pytest.fail(
            "helm is not on PATH; `PYTHONPATH=e2e python3 -m localcluster bin` prints a directory that holds it"
        )
    home = tmp_path_factory.mktemp("helm")
    environment = {
        **os.environ,
        "HELM_CACHE_HOME": str(home),
        "HELM_CONFIG_HOME": str(home),
        "HELM_DATA_HOME": str(home),
    }

    def run(*arguments: str, values: Values | None = None) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [program, *arguments, "--values", "-"],
            input=json.dumps(values or {}),
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def render(helm: Helm) -> Render:
    def objects(values: Values | None = None, release: str = RELEASE) -> Objects:
        arguments = ("template", release, str(CHART), "--namespace", NAMESPACE, "--kube-version", "1.31.0")
        done = helm(*arguments, values=values)
        assert done.returncode == 0, done.stderr
        return {title(each): each for each in yaml.safe_load_all(done.stdout) if each}

    return objects


@pytest.fixture(scope="module")
def default(render: Render) -> Objects:
    return render()


def test_lint_finds_nothing(helm: Helm) -> None:
    done = helm("lint", "--strict", str(CHART), "--kube-version", "1.31.0")
    assert done.returncode == 0, done.stdout + done.stderr


def test_everything_that_is_made_by_default(default: Objects) -> None:
    assert set(default) == {
        "CustomResourceDefinition/torchrunjobs.torchrun.dev",
        f"ServiceAccount/{NAME}",
        f"ClusterRole/{NAME}",
        f"ClusterRoleBinding/{NAME}",
        f"ClusterRole/{NAME}-nodes",
        f"ClusterRoleBinding/{NAME}-nodes",
        f"Secret/{NAME}-rendezvous",
        f"Service/{NAME}-metrics",
        f"Deployment/{NAME}",
    }


def test_the_deployment_by_default(default: Objects) -> None:
    assert default[f"Deployment/{NAME}"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": LABELS},
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": SELECTOR},
            "template": {"metadata": {"labels": LABELS | COMPONENT}, "spec": DEFAULT_POD},
        },
    }


def test_the_metrics_service_by_default(default: Objects) -> None:
    assert default[f"Service/{NAME}-metrics"] == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"{NAME}-metrics", "namespace": NAMESPACE, "labels": LABELS},
        "spec": {
            "type": "ClusterIP",
            "selector": SELECTOR,
            "ports": [{"name": "metrics", "port": 8080, "targetPort": "http"}],
        },
    }


def test_the_rights_are_exactly_these(default: Objects) -> None:
    assert default[f"ClusterRole/{NAME}"]["rules"] == RULES
    assert default[f"ClusterRoleBinding/{NAME}"]["roleRef"]["name"] == NAME
    assert default[f"ClusterRoleBinding/{NAME}"]["subjects"] == [
        {"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}
    ]


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": ["a", "b"]}])
def test_no_right_is_a_wildcard_or_about_secrets(values: Values, render: Render) -> None:
    roles = [each for each in render(values).values() if each["kind"] in {"Role", "ClusterRole"}]
    words = {word for role in roles for rule in role["rules"] for part in rule.values() for word in part}
    assert roles
    assert not [word for word in words if "*" in word or "secret" in word]


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": ["a"]}])
def test_nodes_are_read_and_no_more_wherever_jobs_are(values: Values, render: Render) -> None:
    objects = render(values)
    role, binding = objects[f"ClusterRole/{NAME}-nodes"], objects[f"ClusterRoleBinding/{NAME}-nodes"]
    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]}]
    assert binding["roleRef"]["name"] == f"{NAME}-nodes"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}]


def test_named_namespaces_get_a_role_each_and_the_cluster_none(render: Render) -> None:
    objects = render({"watchNamespaces": ["a", NAMESPACE], "rbac": {"nodes": False}})
    assert not [name for name in objects if name.startswith("Cluster")]
    for suffix in ("@a", ""):
        assert objects[f"Role/{NAME}{suffix}"]["rules"] == RULES
        binding = objects[f"RoleBinding/{NAME}{suffix}"]
        assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME}
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}]
    assert env(objects) == ENV | {"TORCHRUN_OPERATOR_WATCH_NAMESPACES": f"a,{NAMESPACE}"}


def test_the_definition_is_the_generated_one(default: Objects, render: Render) -> None:
    name = "CustomResourceDefinition/torchrunjobs.torchrun.dev"
    generated = yaml.safe_load(CRD.read_text())
    kept = yaml.safe_load(CRD.read_text())
    kept["metadata"]["annotations"] = {"helm.sh/resource-policy": "keep"}
    assert default[name] == kept
    assert render({"crds": {"keep": False}})[name] == generated
    assert name not in render({"crds": {"install": False}})


def test_the_key_is_random_and_can_be_given(default: Objects, render: Render) -> None:
    keys = [base64.b64decode(each[f"Secret/{NAME}-rendezvous"]["data"]["key"]) for each in (default, render())]
    assert [len(key) for key in keys] == [32, 32]
    assert keys[0] != keys[1]
    given = render({"rendezvousKey": {"existingSecret": "mine", "key": "token.bin"}})
    assert not [name for name in given if name.startswith("Secret/")]
    assert pod(given)["volumes"] == [
        {
            "name": "rendezvous-key",
            "secret": {
                "secretName": "mine",
                "defaultMode": 0o440,
                "items": [{"key": "token.bin", "path": "key"}],
            },
        }
    ]


@pytest.mark.parametrize(
    ("values", "changed"),
    [
        ({"imagePullSecrets": ["a"]}, {"imagePullSecrets": [{"name": "a"}]}),
        ({"priorityClassName": "high"}, {"priorityClassName": "high"}),
        ({"nodeSelector": {"a": "b"}}, {"nodeSelector": {"a": "b"}}),
        ({"tolerations": [{"operator": "Exists"}]}, {"tolerations": [{"operator": "Exists"}]}),
        ({"affinity": {"nodeAffinity": {}}}, {"affinity": {"nodeAffinity": {}}}),
        (
            {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone"}]},
            {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone"}]},
        ),
        ({"terminationGracePeriodSeconds": 0}, {"terminationGracePeriodSeconds": 0}),
        ({"serviceAccount": {"create": False, "name": "mine"}}, {"serviceAccountName": "mine"}),
    ],
)
def test_values_of_the_pod(values: Values, changed: dict[str, Any], render: Render) -> None:
    assert pod(render(values)) == DEFAULT_POD | changed


@pytest.mark.parametrize(
    ("values", "changed"),
    [
        ({"image": {"repository": "reg:5000/a/b", "tag": "dev"}}, {"image": "reg:5000/a/b:dev"}),
        ({"image": {"tag": "1@sha256:" + "a" * 64}}, {"image": "torchrun-operator:1@sha256:" + "a" * 64}),
        ({"image": {"pullPolicy": "Always"}}, {"imagePullPolicy": "Always"}),
        ({"resources": {"requests": None, "limits": {"memory": "2Gi"}}}, {"resources": {"limits": {"memory": "2Gi"}}}),
        (
            {"extraEnv": [{"name": "A", "value": "b"}]},
            {"env": [*DEFAULT_POD["containers"][0]["env"], {"name": "A", "value": "b"}]},  # type: ignore[index]
        ),
    ],
)
def test_values_of_the_container(values: Values, changed: dict[str, Any], render: Render) -> None:
    expected = DEFAULT_POD["containers"][0] | changed  # type: ignore[index]
    assert pod(render(values))["containers"] == [expected]


def test_settings_come_from_values_and_are_the_operators(render: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "watchNamespaces": ["a", "b"],
        "workers": 4,
        "resyncSeconds": 1000000,
        "minReconcileIntervalSeconds": 0,
        "progressIntervalSeconds": 1.5,
        "stuckSeconds": 60,
        "log": {"level": "DEBUG", "format": "text"},
    }
    given = env(render(values))
    assert set(given) == {f"TORCHRUN_OPERATOR_{name.upper()}" for name in Settings.model_fields} - {
        "TORCHRUN_OPERATOR_HTTP_HOST"
    }
    for name, value in (given | {"TORCHRUN_OPERATOR_NAMESPACE": "torchrun-system"}).items():
        monkeypatch.setenv(name, value)
    assert Settings() == Settings(
        namespace="torchrun-system",
        watch_namespaces=("a", "b"),
        workers=4,
        resync_seconds=1e6,
        min_reconcile_interval=0,
        progress_interval=1.5,
        stuck_seconds=60,
        log_level="DEBUG",
        log_format="text",
    )


def test_the_defaults_of_the_chart_are_those_of_the_operator(default: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Settings()
    for name, value in env(default).items():
        if name != "TORCHRUN_OPERATOR_NAMESPACE":  # Kubernetes fills it in
            monkeypatch.setenv(name, value)
    assert Settings() == before


@pytest.mark.parametrize(
    ("values", "annotations"),
    [
        ({"annotations": {"a": "b"}}, {"a": "b"}),
        (
            {"prometheusAnnotations": True, "annotations": {"prometheus.io/path": "/mine"}},
            {"prometheus.io/scrape": "true", "prometheus.io/port": "8080", "prometheus.io/path": "/mine"},
        ),
    ],
)
def test_annotations_of_the_metrics_service(values: Values, annotations: dict[str, str], render: Render) -> None:
    service = render({"metrics": {"service": values}})[f"Service/{NAME}-metrics"]
    assert service["metadata"]["annotations"] == annotations


def test_a_service_monitor_finds_its_service(render: Render) -> None:
    values = {"metrics": {"service": {"create": False}, "serviceMonitor": {"create": True, "labels": {"team": "ml"}}}}
    objects = render(values)
    assert objects[f"ServiceMonitor/{NAME}"] == {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": LABELS | {"team": "ml"}},
        "spec": {
            "selector": {"matchLabels": SELECTOR},
            "endpoints": [{"port": "metrics", "path": "/metrics", "interval": "30s"}],
        },
    }
    assert SELECTOR.items() <= objects[f"Service/{NAME}-metrics"]["metadata"]["labels"].items()


@pytest.mark.parametrize(
    ("values", "absent"),
    [
        ({"rbac": {"create": False}}, ["ClusterRole/", "ClusterRoleBinding/"]),
        ({"rbac": {"nodes": False}}, [f"ClusterRole/{NAME}-nodes", f"ClusterRoleBinding/{NAME}-nodes"]),
        ({"rbac": {"create": False}, "watchNamespaces": ["a"]}, ["Role/", "RoleBinding/", "ClusterRole/"]),
        ({"serviceAccount": {"create": False, "name": "mine"}}, ["ServiceAccount/"]),
        ({"metrics": {"service": {"create": False}}}, ["Service/"]),
    ],
)
def test_what_need_not_be_made(values: Values, absent: list[str], render: Render) -> None:
    assert not [name for name in render(values) if name.startswith(tuple(absent))]


@pytest.mark.parametrize(
    ("release", "values", "name"),
    [
        ("torchrun-operator", {}, "torchrun-operator"),
        ("my-torchrun-operator", {}, "my-torchrun-operator"),
        ("x", {"nameOverride": "tro"}, "x-tro"),
        ("x", {"fullnameOverride": "whole"}, "whole"),
        ("r" * 53, {}, "r" * 52),
    ],
)
def test_names_and_labels_agree(release: str, values: Values, name: str, render: Render) -> None:
    objects = render(values, release)
    template = objects[f"Deployment/{name}"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        objects[f"Deployment/{name}"]["spec"]["selector"]["matchLabels"],
        objects[f"Service/{name}-metrics"]["spec"]["selector"],
    ):
        assert selector.items() <= template.items()
    labelled = [each["metadata"] for each in objects.values() if each["kind"] != "CustomResourceDefinition"]
    assert [each["labels"] | COMPONENT for each in labelled] == [template] * len(labelled)
    assert max(len(each["name"]) for each in labelled) <= 63


def test_labels_and_annotations_of_the_pod(render: Render) -> None:
    template = render({"podLabels": {"team": "ml"}, "podAnnotations": {"a": "b"}})[f"Deployment/{NAME}"]["spec"][
        "template"
    ]
    assert template["metadata"] == {"labels": LABELS | COMPONENT | {"team": "ml"}, "annotations": {"a": "b"}}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replicas": 2}, "replicas"),
        ({"image": {"tagg": "x"}}, "tagg"),
        ({"image": {"repository": ""}}, "repository"),
        ({"image": {"tag": "a b"}}, "tag"),
        ({"image": {"tag": 1.0}}, "tag"),
        ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"imagePullSecrets": [{"name": "a"}]}, "imagePullSecrets"),
        ({"fullnameOverride": "Upper"}, "fullnameOverride"),
        ({"fullnameOverride": "x" * 53}, "fullnameOverride"),
        ({"crds": {"install": "yes"}}, "install"),
        ({"watchNamespaces": "a,b"}, "watchNamespaces"),
        ({"watchNamespaces": ["team-*"]}, "watchNamespaces"),
        ({"watchNamespaces": ["a", "a"]}, "watchNamespaces"),
        ({"rendezvousKey": {"key": "a/b"}}, "key"),
        ({"rendezvousKey": {"value": "secret"}}, "value"),
        ({"log": {"level": "LOUD"}}, "level"),
        ({"log": {"format": "xml"}}, "format"),
        ({"workers": 0}, "workers"),
        ({"workers": "16"}, "workers"),
        ({"resyncSeconds": 0}, "resyncSeconds"),
        ({"minReconcileIntervalSeconds": -1}, "minReconcileIntervalSeconds"),
        ({"progressIntervalSeconds": 0}, "progressIntervalSeconds"),
        ({"stuckSeconds": "2m"}, "stuckSeconds"),
        ({"extraEnv": {"A": "b"}}, "extraEnv"),
        ({"extraEnv": [{"value": "b"}]}, "extraEnv"),
        ({"resources": {"cpu": 1}}, "resources"),
        ({"podLabels": {"app.kubernetes.io/name": "x"}}, "podLabels"),
        ({"podAnnotations": {"a": 1}}, "podAnnotations"),
        ({"tolerations": {}}, "tolerations"),
        ({"metrics": {"serviceMonitor": {"interval": "often"}}}, "interval"),
        ({"serviceAccount": {"create": False}}, "serviceAccount.name"),
    ],
)
def test_wrong_values_are_refused_by_name(values: Values, named: str, helm: Helm) -> None:
    done = helm("template", RELEASE, str(CHART), "--kube-version", "1.31.0", values=values)
    assert done.returncode != 0
    assert named in done.stderr


def test_old_clusters_are_refused(helm: Helm) -> None:
    done = helm("template", RELEASE, str(CHART), "--kube-version", "1.28.0")
    assert done.returncode != 0
    assert ">=1.29.0-0" in done.stderr


def test_every_value_is_in_the_schema_and_the_installation_guide() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    guide = (ROOT / "docs" / "install.md").read_text()

    def leaves(node: dict[str, Any], path: str = "") -> list[str]:
        if "properties" not in node or path == ".resources":
            return [path.removeprefix(".")]
        return [leaf for key, each in node["properties"].items() for leaf in leaves(each, f"{path}.{key}")]

    expected = [leaf for leaf in leaves(schema) if leaf != "global"]
    assert sorted(re.findall(r"^\| `([\w.]+)` \|", guide, re.MULTILINE)) == sorted(expected)


def test_notes_say_what_to_do_next(helm: Helm, tmp_path: Path) -> None:
    # `helm template` leaves the notes out: a copy of the chart gets them as the text of an object.
    chart = tmp_path / CHART.name
    shutil.copytree(CHART, chart)
    (chart / "templates" / "NOTES.txt").rename(chart / "files" / "NOTES.txt")
    (chart / "templates" / "notes.yaml").write_text('text: {{ tpl (.Files.Get "files/NOTES.txt") . | quote }}\n')
    arguments = ("template", RELEASE, str(chart), "--namespace", NAMESPACE, "--show-only", "templates/notes.yaml")
    done = helm(*arguments, "--kube-version", "1.31.0", values={"watchNamespaces": ["team-a"]})
    assert done.returncode == 0, done.stderr
    notes = yaml.safe_load(done.stdout)["text"]
    assert f"kubectl -n {NAMESPACE} rollout status deployment/{NAME}" in notes
    assert f"http://{NAME}-metrics.{NAMESPACE}.svc:8080/metrics" in notes
    assert "kubectl -n team-a apply -f -" in notes
    job = yaml.safe_load(notes.split("<<END\n")[1].split("  END\n")[0])
    job["metadata"]["namespace"] = "team-a"
    assert problems(job_of(job)) == []
