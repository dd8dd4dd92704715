"""`kubectl torchrun doctor`: what keeps a job, or the operator, from working."""

import sys
from typing import TYPE_CHECKING, Any

import click

from torchrun_cli.cluster import resources as of
from torchrun_cli.cluster.client import Client, connect
from torchrun_cli.cluster.survey import Query, read_lists, readiness, server_time
from torchrun_cli.errors import Exit
from torchrun_cli.options import Target, command, output_option, target_options
from torchrun_cli.terminal import now, paint, say, width
from torchrun_operator.api.names import COMPONENT_OPERATOR, GROUP, LABEL_COMPONENT, LABEL_JOB_NAME, PLURAL

if TYPE_CHECKING:
    from torchrun_cli.doctor.case import JobCase
    from torchrun_cli.doctor.control import ClusterCase
    from torchrun_cli.doctor.findings import Seen

_LEASES = "kube-node-lease"
_OPERATOR_PORT = 8080
_OPERATOR = {
    "deployments": Query(of.DEPLOYMENTS, labels="app.kubernetes.io/managed-by=Helm"),
    "operatorpods": Query(of.PODS, labels=f"{LABEL_COMPONENT}={COMPONENT_OPERATOR}"),
    "storageclasses": Query(of.STORAGE_CLASSES),
    "leases": Query(of.LEASES, _LEASES),
}
_CLUSTER = {
    "customresourcedefinitions": Query(of.DEFINITIONS, fields=f"metadata.name={PLURAL}.{GROUP}"),
    "nodes": Query(of.NODES),
    "daemonsets": Query(of.DAEMON_SETS),
}
_ROOM = {
    "nodes": Query(of.NODES),
    "allpods": Query(of.PODS, fields="spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"),
}
"""Read only if a pod has no Kubernetes node: they are large."""


@command(
    examples="""
    # Why does this job not start, or not get on?
    kubectl torchrun doctor digits

    # Is the cluster ready for jobs?
    kubectl torchrun doctor

    # For programs
    kubectl torchrun doctor digits -o json
    """,
)
@click.argument("name", required=False)
@output_option("json", "yaml")
@target_options
def doctor(target: Target, name: str | None, output: str | None) -> None:
    """Check a job, or the cluster: what keeps it from working, and what to do.

    Without NAME: the operator, its versions, storage, GPUs and network policies. What you have no right to read is
    skipped. The exit code is 1 if a check has failed, and 0 if there are only warnings.
    """
    client = connect(target)
    raw = client.get(of.JOBS, name) if name is not None else None
    from torchrun_cli.doctor.checks import cluster_findings, failed, job_findings  # noqa: PLC0415 needs pydantic
    from torchrun_cli.doctor.screen import document, finding_lines, printed  # noqa: PLC0415

    if raw is None:
        found = cluster_findings(_cluster_case(_seen(client, {**_OPERATOR, **_CLUSTER})))
    else:
        case = _job_case(client, raw)
        found = job_findings(case, _cluster_case(case.seen, client.namespace))
    if output:
        click.echo(printed(document(found, name, client.namespace), output), nl=False)
    else:
        say(finding_lines(found, paint=paint(), width=width()))
    if failed(found):
        sys.exit(Exit.FAILED)


def _job_case(client: Client, raw: dict[str, Any]) -> "JobCase":
    from pydantic import ValidationError  # noqa: PLC0415 slow to import

    from torchrun_cli.checking.checks import check  # noqa: PLC0415
    from torchrun_cli.doctor.case import job_case  # noqa: PLC0415
    from torchrun_operator.api.v1alpha1 import job_of  # noqa: PLC0415

    problems = tuple(map(str, check(_as_written(raw))))
    try:
        job = job_of(raw) if not problems else None
    except ValidationError:  # also among the problems
        job = None
    seen = _seen(client, {**_OPERATOR, **_of_namespace(client.namespace, raw["metadata"]["name"])})
    case = job_case(raw, job, problems, seen)
    return job_case(raw, job, problems, _with(client, seen, _ROOM)) if case.unplaced else case


def _as_written(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a job that people write."""
    metadata = {key: raw["metadata"][key] for key in ("name", "namespace", "labels") if key in raw["metadata"]}
    return {key: raw[key] for key in ("apiVersion", "kind", "spec") if key in raw} | {"metadata": metadata}


def _of_namespace(namespace: str, name: str) -> dict[str, Query]:
    return {
        "pods": Query(of.PODS, namespace, labels=f"{LABEL_JOB_NAME}={name}"),
        "resourcequotas": Query(of.QUOTAS, namespace),
        "limitranges": Query(of.LIMIT_RANGES, namespace),
        "networkpolicies": Query(of.NETWORK_POLICIES, namespace),
        "persistentvolumeclaims": Query(of.CLAIMS, namespace),
        "secrets": Query(of.SECRETS, namespace, names_only=True),
        "configmaps": Query(of.CONFIG_MAPS, namespace, names_only=True),
        "serviceaccounts": Query(of.SERVICE_ACCOUNTS, namespace, names_only=True),
        "namespaces": Query(of.NAMESPACES, fields=f"metadata.name={namespace}"),
    }


def _seen(client: Client, queries: dict[str, Query]) -> "Seen":
    from torchrun_cli.doctor.findings import Seen, Unread  # noqa: PLC0415

    said = server_time(client)
    here = now()
    seen = _with(client, Seen(here, {}, said), queries)
    pods = seen.lists.get("operatorpods", ())
    running = [] if isinstance(pods, Unread) else [pod for pod in pods if pod["status"].get("phase") == "Running"]
    answers = pods.why if isinstance(pods, Unread) else readiness(client, running, _OPERATOR_PORT)
    known = Unread(answers) if isinstance(answers, str) else tuple(answers)
    return Seen(here, {**seen.lists, "readyz": known}, said)


def _with(client: Client, seen: "Seen", queries: dict[str, Query]) -> "Seen":
    from torchrun_cli.doctor.findings import Seen, Unread  # noqa: PLC0415

    read = read_lists(client, queries)
    lists = {name: Unread(found) if isinstance(found, str) else found for name, found in read.items()}
    return Seen(seen.now, {**seen.lists, **lists}, seen.server_time)


def _cluster_case(seen: "Seen", namespace: str | None = None) -> "ClusterCase":
    from importlib.metadata import version  # noqa: PLC0415

    from torchrun_cli.checking.structure import schema  # noqa: PLC0415
    from torchrun_cli.doctor.control import ClusterCase  # noqa: PLC0415

    fields = frozenset(schema()["properties"]["spec"]["properties"])
    return ClusterCase(seen, version("torchrun-operator"), fields, namespace)
