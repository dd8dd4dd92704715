"""Fixtures: a cluster with the operator, a namespace per test, and diagnostics of failed tests."""

import os
import re
import secrets
from collections.abc import Generator, Iterator

import pytest

from support import chart
from support.clusters import Cluster, UnusableError, local_cluster, own_cluster, require_allowed_context
from support.kubectl import Kubectl, KubectlError

_FAILED = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """Return the local cluster, or that of KUBECONFIG if allowed, with the operator of these sources."""
    try:
        found = own_cluster(os.environ, "E2E") or local_cluster()
        require_allowed_context(found, os.environ)
        chart.install(found)
    except UnusableError as error:
        pytest.exit(str(error), returncode=2)
    return found


@pytest.fixture
def kubectl(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """Return kubectl in a namespace for this test, which is deleted at the end."""
    title = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    name = f"{title[:40].strip('-')}-{secrets.token_hex(3)}"
    cluster.kubectl.run("create", "namespace", name)
    scoped = cluster.kubectl.within(name)
    yield scoped
    if request.node.stash.get(_FAILED, False):
        request.node.add_report_section("teardown", "cluster", _story(cluster, scoped))
    cluster.kubectl.run("delete", "namespace", name, "--wait=false")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[_FAILED] = report.failed
    return report


def _story(cluster: Cluster, kubectl: Kubectl) -> str:
    """Print what a person would look at first."""
    commands = [
        ("get", "torchrunjobs,pods", "--output=wide"),
        ("get", "events", "--sort-by=.lastTimestamp"),
        ("get", "torchrunjobs", "--output=jsonpath={range .items[*]}{.metadata.name}: {.status}{'\\n'}{end}"),
        ("logs", "--selector=torchrun.dev/role=node", "--prefix", "--tail=20", "--max-log-requests=20"),
        ("logs", "--selector=torchrun.dev/role=rendezvous", "--prefix", "--tail=20", "--max-log-requests=20"),
    ]
    parts = [_try(kubectl, *command) for command in commands]
    parts.append(_try(cluster.kubectl.within(chart.NAMESPACE), "logs", f"deployment/{chart.RELEASE}", "--tail=60"))
    return "\n\n".join(parts)


def _try(kubectl: Kubectl, *arguments: str) -> str:
    try:
        return f"$ kubectl {' '.join(arguments)}\n{kubectl.run(*arguments)}"
    except KubectlError as error:
        return str(error)
