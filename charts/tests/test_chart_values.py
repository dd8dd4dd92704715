"""The values of the Helm chart: what each one changes, and which ones the schema rejects."""

import json
import re
from typing import Any

import pytest

from chart_defaults import (
    CHART,
    COMPONENT,
    DEFAULT_POD,
    GUIDE,
    LABELS,
    LOST,
    NAME,
    RELEASE,
    Helm,
    Objects,
    Render,
    Values,
    env,
    pod,
)
from torchrun_operator.settings import Settings


@pytest.mark.parametrize(
    ("values", "changed"),
    [
        ({"imagePullSecrets": ["a"]}, {"imagePullSecrets": [{"name": "a"}]}),
        ({"priorityClassName": "high"}, {"priorityClassName": "high"}),
        ({"nodeSelector": {"a": "b"}}, {"nodeSelector": {"a": "b"}}),
        ({"tolerations": [{"key": "gpu"}]}, {"tolerations": [{"key": "gpu"}, *LOST]}),
        (
            {"tolerations": [LOST[0] | {"tolerationSeconds": 5}]},
            {"tolerations": [LOST[0] | {"tolerationSeconds": 5}, LOST[1]]},
        ),
        ({"tolerations": [{"operator": "Exists"}]}, {"tolerations": [{"operator": "Exists"}]}),
        (
            {"tolerations": [{"operator": "Exists", "effect": "NoSchedule"}]},
            {"tolerations": [{"operator": "Exists", "effect": "NoSchedule"}, *LOST]},
        ),
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
        ({"validatingAdmissionPolicy": {"enabled": True}}, "enabled"),
        ({"rbac": {"aggregate": "admin"}}, "aggregate"),
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


def test_every_value_is_in_the_schema_and_the_installation_guide() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    guide = GUIDE.read_text()

    def leaves(node: dict[str, Any], path: str = "") -> list[str]:
        if "properties" not in node or path == ".resources":
            return [path.removeprefix(".")]
        return [leaf for key, each in node["properties"].items() for leaf in leaves(each, f"{path}.{key}")]

    expected = [leaf for leaf in leaves(schema) if leaf != "global"]
    assert sorted(re.findall(r"^\| `([\w.]+)` \|", guide, re.MULTILINE)) == sorted(expected)
