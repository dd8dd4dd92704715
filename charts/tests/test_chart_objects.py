"""The objects of the Helm chart, and the rights of the operator: those that it needs and no others."""

import base64
import re
import shutil
from pathlib import Path

import pytest
import yaml

from chart_defaults import (
    CHART,
    COMPONENT,
    CRD,
    DEFAULT_POD,
    ENV,
    GUIDE,
    LABELS,
    NAME,
    NAMESPACE,
    POLICY,
    RELEASE,
    RULES,
    SELECTOR,
    Helm,
    Objects,
    Render,
    Values,
    env,
    pod,
)
from torchrun_operator.api.v1alpha1.job import job_of
from torchrun_operator.render.validation import problems


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
        f"ClusterRole/{NAME}-view",
        f"ClusterRole/{NAME}-edit",
        f"ValidatingAdmissionPolicy/{POLICY}",
        f"ValidatingAdmissionPolicyBinding/{POLICY}",
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


def test_the_installation_guide_lists_every_right_with_its_reason(default: Objects) -> None:
    rows = re.findall(r"^\| (core|[a-z0-9.]+) \| ([^|`]+) \| ([^|`]+) \| (.+) \|$", GUIDE.read_text(), re.MULTILINE)
    told = [
        {"apiGroups": [group.replace("core", "")], "resources": resources.split(", "), "verbs": verbs.split(", ")}
        for group, resources, verbs, _ in rows
    ]
    assert told == [*RULES, *default[f"ClusterRole/{NAME}-nodes"]["rules"]]


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": ["a", "b"]}])
def test_no_right_is_a_wildcard_or_about_secrets(values: Values, render: Render) -> None:
    roles = [each for each in render(values).values() if each["kind"] in {"Role", "ClusterRole"}]
    words = {word for role in roles for rule in role["rules"] for part in rule.values() for word in part}
    assert roles
    assert not [word for word in words if "*" in word or "secret" in word]


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": ["a"]}])
def test_nodes_are_only_read_wherever_jobs_are(values: Values, render: Render) -> None:
    objects = render(values)
    role, binding = objects[f"ClusterRole/{NAME}-nodes"], objects[f"ClusterRoleBinding/{NAME}-nodes"]
    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]}]
    assert binding["roleRef"]["name"] == f"{NAME}-nodes"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}]


def test_nobody_gets_the_right_to_write_the_status(default: Objects) -> None:
    aggregate = {f"rbac.authorization.k8s.io/aggregate-to-{role}": "true" for role in ("view", "edit", "admin")}
    view, edit = default[f"ClusterRole/{NAME}-view"], default[f"ClusterRole/{NAME}-edit"]
    assert view["metadata"]["labels"] == LABELS | aggregate
    assert edit["metadata"]["labels"] | {"rbac.authorization.k8s.io/aggregate-to-view": "true"} == LABELS | aggregate
    group = ["torchrun.dev"]
    assert view["rules"] == [
        {"apiGroups": group, "resources": ["torchrunjobs"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": group, "resources": ["torchrunjobs/status", "torchrunjobs/scale"], "verbs": ["get"]},
    ]
    assert edit["rules"] == [
        {
            "apiGroups": group,
            "resources": ["torchrunjobs"],
            "verbs": ["create", "update", "patch", "delete", "deletecollection"],
        },
        {"apiGroups": group, "resources": ["torchrunjobs/scale"], "verbs": ["update", "patch"]},
    ]


def test_the_policy_covers_all_that_the_operator_may_write(default: Objects, render: Render) -> None:
    """Otherwise a new right would be without limits."""
    written = [rule for rule in RULES if {"create", "update", "patch", "delete", "deletecollection"} & {*rule["verbs"]}]
    spec = default[f"ValidatingAdmissionPolicy/{POLICY}"]["spec"]
    assert spec["matchConstraints"]["resourceRules"] == [
        {
            "apiGroups": rule["apiGroups"],
            "apiVersions": ["*"],
            "operations": ["CREATE", "UPDATE", "DELETE"],
            "resources": rule["resources"],
        }
        for rule in written
        if rule["resources"] != ["torchrunjobs/finalizers"]  # no request, only a check of owner references
    ]
    assert default[f"ValidatingAdmissionPolicyBinding/{POLICY}"]["spec"] == {
        "policyName": POLICY,
        "validationActions": ["Deny"],
    }
    for values, account in ({}, NAME), ({"serviceAccount": {"create": False, "name": "mine"}}, "mine"):
        condition = render(values)[f"ValidatingAdmissionPolicy/{POLICY}"]["spec"]["matchConditions"][0]
        assert condition["expression"] == f'request.userInfo.username == "system:serviceaccount:{NAMESPACE}:{account}"'


def test_a_cluster_without_such_policies_gets_none(helm: Helm) -> None:
    done = helm("template", RELEASE, str(CHART), "--kube-version", "1.29.9")
    assert done.returncode == 0, done.stderr
    assert "ValidatingAdmissionPolicy" not in done.stdout


def test_named_namespaces_get_a_role_each_and_the_cluster_none(render: Render) -> None:
    objects = render({"watchNamespaces": ["a", NAMESPACE], "rbac": {"nodes": False}})
    assert [name for name in objects if name.startswith("Cluster")] == [
        f"ClusterRole/{NAME}-view",
        f"ClusterRole/{NAME}-edit",
    ]
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
        ({"rbac": {"create": False, "aggregate": False}}, ["ClusterRole/", "ClusterRoleBinding/"]),
        ({"rbac": {"aggregate": False}}, [f"ClusterRole/{NAME}-view", f"ClusterRole/{NAME}-edit"]),
        ({"validatingAdmissionPolicy": {"create": False}}, ["ValidatingAdmissionPolicy"]),
        ({"rbac": {"nodes": False}}, [f"ClusterRole/{NAME}-nodes", f"ClusterRoleBinding/{NAME}-nodes"]),
        ({"rbac": {"create": False}, "watchNamespaces": ["a"]}, ["Role/", "RoleBinding/", f"ClusterRole/{NAME}-nodes"]),
        ({"serviceAccount": {"create": False, "name": "mine"}}, ["ServiceAccount/"]),
        ({"metrics": {"service": {"create": False}}}, ["Service/"]),
    ],
)
def test_values_leave_objects_out(values: Values, absent: list[str], render: Render) -> None:
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
    assert [template | each["labels"] == each["labels"] | COMPONENT for each in labelled] == [True] * len(labelled)
    assert max(len(each["name"]) for each in labelled) <= 63


def test_old_clusters_are_refused(helm: Helm) -> None:
    done = helm("template", RELEASE, str(CHART), "--kube-version", "1.28.0")
    assert done.returncode != 0
    assert ">=1.29.0-0" in done.stderr


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
