"""Fixtures: a cluster with the operator, a namespace per test, and diagnostics of failed tests."""

import os
import re
import secrets
from collections.abc import Generator, Iterator

import pytest

from support import chart
from support.clusters import Cluster, UnusableError, local_cluster, own_cluster, require_allowed_context
from support.diagnosis import story
from support.kubectl import Kubectl

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
        request.node.add_report_section("teardown", "cluster", story(cluster, scoped))
    cluster.kubectl.run("delete", "namespace", name, "--wait=false")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[_FAILED] = report.failed
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what jobs in trouble said, which is what their tests are about."""
    reports = terminalreporter.getreports("passed")
    said = [value for report in reports for name, value in report.user_properties if name == "said"]
    if said:
        terminalreporter.section("what the jobs said")
        for line in said:
            terminalreporter.line(str(line))
