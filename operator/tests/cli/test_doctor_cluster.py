"""The checks of the cluster, and what the command prints and asks."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from click.testing import CliRunner

from cli_cluster import refused, said
from doctor_jobs import FAILED, NOW, OK, UNKNOWN, WARNING, Row, computer, job, named, pod, seen
from torchrun_cli.app import PROGRAM, app
from torchrun_cli.cluster.client import Client
from torchrun_cli.cluster.kubeconfig import Access
from torchrun_cli.doctor.control import ClusterCase, gpus, operator, policies, resource, storage, versions, watches
from torchrun_cli.doctor.findings import Finding
from torchrun_cli.doctor.screen import document, finding_lines
from torchrun_cli.show.style import Paint

KNOWN = frozenset({"nnodes", "template"})


def check(
    found: Callable[[ClusterCase, str], Iterable[Finding]], expected: list[Row], of: str | None = None, **lists: Any
) -> None:
    """Compare all that a check finds."""
    case = ClusterCase(seen(**lists), "0.1.0", KNOWN, of)
    assert list(found(case, "c")) == [Finding("c", *row) for row in expected]


def deployment(name: str = "op", watches: str = "", version: str = "0.1.0", replicas: int = 1, ready: int = 1) -> Any:
    variables = [{"name": "TORCHRUN_OPERATOR_WATCH_NAMESPACES", "value": watches}]
    container = {"name": "operator", "image": "op:1", "env": variables}
    template = {"metadata": {"labels": {"torchrun.dev/component": "operator"}}, "spec": {"containers": [container]}}
    no_pod = {"type": "Available", "status": "False", "message": "no minimum availability"}
    return {
        "metadata": {"name": name, "namespace": "sys", "labels": {"app.kubernetes.io/version": version}},
        "spec": {"replicas": replicas, "template": template},
        "status": {"availableReplicas": 1} if ready else {"conditions": [no_pod]},
    }


OTHER = named("Deployment", "web", spec={"template": {"metadata": {"labels": {"app": "web"}}}})
READY = (OK, "sys/op is ready (op:1)")


OPERATORS = [
    pytest.param([OTHER, deployment()], None, [READY], id="ready"),
    pytest.param(
        [OTHER],
        None,
        [(FAILED, "no Deployment has pods with the label of the operator", "install it: docs/install.md")],
        id="none",
    ),
    pytest.param(
        [deployment(ready=0)],
        None,
        [
            (
                *(FAILED, "sys/op has no pod that is ready: no minimum availability"),
                "see kubectl -n sys describe deployment op, and the log of its pod",
            )
        ],
        id="not ready",
    ),
    pytest.param(
        [deployment(replicas=0, ready=0)],
        None,
        [(FAILED, "sys/op is scaled to 0", "kubectl -n sys scale deployment op --replicas=1")],
        id="scaled to nothing",
    ),
    pytest.param([deployment(watches="ml,dev")], "ml", [READY], id="it watches the namespace"),
    pytest.param(
        [deployment(watches="dev")],
        "ml",
        [
            READY,
            (
                *(FAILED, "no operator watches the namespace ml, only dev"),
                "add it to watchNamespaces in the values of the chart",
            ),
        ],
        id="it does not",
    ),
    pytest.param(
        [deployment(watches="a"), deployment("two", watches="b")],
        "b",
        [READY, (OK, "sys/two is ready (op:1)")],
        id="two, for different namespaces",
    ),
    pytest.param(
        [deployment(watches="a"), deployment("two")],
        None,
        [
            (
                *(FAILED, "several operators watch the same namespaces: sys/op, sys/two"),
                "uninstall one, or give each its watchNamespaces",
            ),
            *(READY, (OK, "sys/two is ready (op:1)")),
        ],
        id="two, for the same",
    ),
]


@pytest.mark.parametrize(("deployments", "of", "expected"), OPERATORS)
def test_operator(deployments: list[Any], of: str | None, expected: list[Row]) -> None:
    check(operator, expected, of, deployments=tuple(deployments))


def test_versions() -> None:
    check(versions, [(OK, "operator and this program are 0.1.0")], deployments=(deployment(),))
    words = "this program is 0.1.0, the operator 0.0.9"
    rows: list[Row] = [(WARNING, words, "install the same version of both")]
    check(versions, rows, deployments=(deployment(version="0.0.9"),))
    rows = [(UNKNOWN, "the operator does not say its version; this program is 0.1.0")]
    check(versions, rows, deployments=(deployment(version=""),))


def definition(*fields: str, served: bool = True, established: str = "True", **spec: Any) -> Any:
    properties: dict[str, Any] = {"spec": {"properties": {key: {} for key in fields or KNOWN}}}
    version = {"name": "v1alpha1", "served": served, "schema": {"openAPIV3Schema": {"properties": properties}}}
    condition = {"type": "Established", "status": established, "message": "not yet"}
    return {
        "metadata": {"name": "torchrunjobs.torchrun.dev"},
        "spec": {"versions": [version], **spec},
        "status": {"conditions": [condition], "storedVersions": ["v1alpha1"]},
    }


@pytest.mark.parametrize(
    ("definitions", "expected"),
    [
        pytest.param([definition()], [(OK, "torchrunjobs is served as v1alpha1, without conversion")], id="served"),
        pytest.param(
            [], [(FAILED, "the cluster has no torchrunjobs", "install the chart: docs/install.md")], id="not installed"
        ),
        pytest.param(
            [definition(served=False)],
            [(FAILED, "the version v1alpha1 is not served, only none", "install the chart of this version")],
            id="not served",
        ),
        pytest.param(
            [definition("nnodes")],
            [
                (
                    *(WARNING, "it does not know the fields template, which this program knows"),
                    "upgrade the chart, or crds/torchrun.dev_torchrunjobs.yaml",
                )
            ],
            id="older than this program",
        ),
        pytest.param(
            [definition(established="False")],
            [
                (
                    *(FAILED, "Established is False: not yet"),
                    "another resource has its names: uninstall that, then this chart again",
                )
            ],
            id="names taken",
        ),
        pytest.param(
            [definition(conversion={"strategy": "Webhook"})],
            [
                (
                    *(WARNING, "versions are converted by Webhook: every read of a job needs that webhook"),
                    "check that its service answers; the chart does not set it",
                ),
                (OK, "torchrunjobs is served as v1alpha1"),
            ],
            id="converted",
        ),
    ],
)
def test_resource(definitions: list[Any], expected: list[Row]) -> None:
    check(resource, expected, customresourcedefinitions=tuple(definitions))


UNSHARED = "none of the storage classes is known to have ReadWriteMany volumes: gp3 (ebs.csi.aws.com)"


def storage_class(name: str, provisioner: str, *, default: bool = True) -> Any:
    annotations = {"storageclass.kubernetes.io/is-default-class": "true" if default else "false"}
    return {"metadata": {"name": name, "annotations": annotations}, "provisioner": provisioner}


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        pytest.param([storage_class("nfs", "nfs.csi.k8s.io")], [(OK, "ReadWriteMany by nfs (NFS)")], id="shared"),
        pytest.param(
            [storage_class("gp3", "ebs.csi.aws.com", default=False)],
            [
                (
                    *(
                        UNKNOWN,
                        UNSHARED,
                    ),
                    "snapshots of jobs on several Kubernetes nodes need such a volume",
                ),
                (
                    *(WARNING, "no storage class is the default one"),
                    "name one in spec.snapshots.volumeClaimTemplate.spec.storageClassName",
                ),
            ],
            id="no known one",
        ),
        pytest.param(
            [],
            [
                (
                    *(WARNING, "the cluster has no storage classes"),
                    "snapshots need a claim that an administrator has bound to a volume with ReadWriteMany",
                )
            ],
            id="none",
        ),
    ],
)
def test_storage(classes: list[Any], expected: list[Row]) -> None:
    check(storage, expected, storageclasses=tuple(classes))


def test_gpus() -> None:
    without = computer("w3", 0, labels={"nvidia.com/gpu.present": "true"})
    rows: list[Row] = [
        (OK, "12 nvidia.com/gpu on 2 Kubernetes nodes: w1 8, w2 4"),
        (WARNING, "w3 has GPUs by label, but none to allocate", "check the device plugin and the driver there"),
    ]
    check(gpus, rows, nodes=(computer("w1", 8), computer("w2", 4), without))
    check(gpus, [(OK, "no Kubernetes node has GPUs to allocate: jobs train on CPUs")], nodes=(computer("w1", 0),))


OPEN = "without it, every pod of the cluster can reach the store of a job: docs/security.md"


@pytest.mark.parametrize(
    ("agents", "args", "expected"),
    [
        (["kube-proxy", "calico-node"], [], (OK, "enforced by Calico, unless its settings say otherwise")),
        (["kube-flannel-ds"], [], (WARNING, "flannel does not enforce them, and no known agent beside it does", OPEN)),
        (["aws-node"], [], (UNKNOWN, "no known agent is there, so it cannot be told whether they are enforced", OPEN)),
        (
            *(["aws-node"], ["--enable-network-policy=true"]),
            (OK, "enforced by the Amazon VPC CNI, unless its settings say otherwise"),
        ),
        ([], [], (UNKNOWN, "no known agent is there, so it cannot be told whether they are enforced", OPEN)),
    ],
)
def test_policies(agents: list[str], args: list[str], expected: Row) -> None:
    template = {"spec": {"containers": [{"name": "agent", "args": args}]}}
    found = tuple(named("DaemonSet", name, spec={"template": template}) for name in agents)
    check(policies, [expected], daemonsets=found)


def test_watches() -> None:
    check(watches, [(OK, "op-1 reads all that it watches")], readyz=({"name": "op-1", "text": "ok\n"},))
    rows: list[Row] = [(FAILED, "op-1 waits: watch of jobs: pending", "see its log")]
    check(watches, rows, readyz=({"name": "op-1", "text": "watch of jobs: pending"},))
    note = "pods in dev: forbidden"
    advice = "a Role or RoleBinding is missing there: docs/troubleshooting.md"
    rows = [(WARNING, "op-1 must not read 1 watch", advice, (note,))]
    check(watches, rows, readyz=({"name": "op-1", "text": f"ok\n{note}\n"},))


FOUND = [
    Finding("quota", FAILED, "no\nroom\x1b[1m", "raise it", ("w1: full",)),
    Finding("limit ranges", OK, "fine"),
]


def test_the_screen() -> None:
    assert finding_lines(FOUND) == [
        "RESULT   CHECK          MESSAGE",
        "failed   quota          no room\N{REPLACEMENT CHARACTER}[1m",
        "                        - w1: full",
        "                        -> raise it",
        "ok       limit ranges   fine",
        "",
        "1 failed, 1 ok",
    ]
    assert finding_lines(FOUND, paint=Paint(on=True))[1].startswith("\x1b[31mfailed\x1b[0m   quota")
    assert document(FOUND[1:], "digits", "ml") == {
        "job": "digits",
        "namespace": "ml",
        "checks": [{"check": "limit ranges", "result": "ok", "message": "fine"}],
    }


class Server:
    """Answers requests by path; all others must not be read."""

    def __init__(self, **lists: Any) -> None:
        self.asked: list[str] = []
        self._lists = lists

    def send(self, method: str, path: str, **_: Any) -> Any:
        assert method == "GET"
        self.asked.append(path)
        plural = path.partition("?")[0].rpartition("/")[2]
        if plural == "version":
            return said({}, Date=NOW.strftime("%a, %d %b %Y %H:%M:%S GMT"))
        if plural in self._lists:
            return said(self._lists[plural])
        return refused(403, "Forbidden", f"{plural} is forbidden")

    def renew(self) -> bool:
        return False


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Server]:
    def serve(**lists: Any) -> Server:
        found = Server(**lists)
        client = Client(Access("https://api.example.com:6443", "ml"), found, warn=lambda _: None)
        monkeypatch.setattr("torchrun_cli.commands.doctor.connect", lambda _: client)
        monkeypatch.setattr("torchrun_cli.commands.doctor.now", lambda: NOW)
        return found

    return serve


def run(*args: str) -> tuple[int, Any]:
    done = CliRunner().invoke(app, ["doctor", *args, "-o", "json"], prog_name=PROGRAM)
    return done.exit_code, json.loads(done.stdout)


def test_with_no_rights_but_on_the_job(server: Callable[..., Server]) -> None:
    ended = {"type": "Complete", "status": "True"}
    found = server(digits=job("Complete", conditions=(ended,)))
    code, whole = run("digits")
    checks = [{"check": "conditions", "result": "ok", "message": "the job is complete"}]
    assert (code, whole) == (0, {"job": "digits", "namespace": "ml", "checks": checks})
    server(digits=job("Starting"))
    code, whole = run("digits")
    skipped = [each["message"] for each in whole["checks"] if each["result"] == "unknown"]
    assert (code, skipped[0]) == (0, "not allowed to read resourcequotas in the namespace ml: skipped")
    assert len(set(found.asked)) == len(found.asked)


def test_each_list_is_read_once_and_large_ones_only_if_they_help(server: Callable[..., Server]) -> None:
    lists = {"pods": {"items": [pod("0"), pod("1"), pod("2"), pod("rdzv", role="rendezvous")]}}
    whole = server(digits=job(), **lists)
    run("digits")
    assert [path for path in whole.asked if "nodeName" in path or path.endswith("/nodes?limit=500")] == []
    lacking = server(digits=job(), pods={"items": []})
    code, _ = run("digits")
    assert (code, len([path for path in lacking.asked if "nodeName" in path])) == (1, 1)
    assert len(set(lacking.asked)) == len(lacking.asked)


def test_of_the_cluster(server: Callable[..., Server]) -> None:
    found = server()
    code, whole = run()
    assert (code, {each["result"] for each in whole["checks"]}) == (0, {"unknown", "ok"})
    assert [each["check"] for each in whole["checks"] if each["result"] == "ok"] == ["clocks"]
    assert len(found.asked) == 8
