"""The rendezvous host and its agents with every supported torch: one job, with each kind of change.

TORCH_PYTHONS lists the Pythons with these versions, separated by colons. Unset: this Python, with the newest torch.
"""

import logging
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from lasting_agents import check_that_workers_go_on, lasting_job
from rendezvous_agents import ALL_REDUCE, Job, address
from rendezvous_host import Host, Operator, running_host, wait_for

_log = logging.getLogger(__name__)
pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(900)]
PYTHONS = os.environ.get("TORCH_PYTHONS", sys.executable).split(os.pathsep)


def _changes(job: Job) -> None:
    """Lose a node, replace it, add a node, and remove a node."""
    host = job.host
    host.want(2, 2)
    began = time.time()
    job.start(0, 1)
    _log.info("start to first step: %.1f s", job.step_after(began, 2))

    moment = job.kill(0)
    host.want(2, 2, (address(0),))
    job.start(2)
    _log.info("kill to next step: %.1f s", job.step_after(moment, 2))
    job.formed(1, 2)

    began = time.time()
    host.want(3, 2, (address(0),))
    job.start(3)
    _log.info("new node to next step: %.1f s", job.step_after(began, 3))

    # The leaver's agent ends by itself. Before torch 2.8, it then closes the rendezvous for all.
    moment = time.time()
    host.want(2, 2, (address(0), address(3)))
    job.agents[3].send_signal(signal.SIGTERM)
    assert job.agents.pop(3).wait(60) == 1
    job.step_after(moment, 2)
    job.formed(1, 2)
    assert {index: agent.poll() for index, agent in job.agents.items()} == {1: None, 2: None}
    state = host.state()
    assert (state["closed"], state["roundsEnded"]) == (False, {"requested": 3, "unrequested": 0})
    _log.info("reopened: %d", host.metrics()["reopened_total"])


def _restart_of_the_host(job: Job, successor: Host) -> None:
    """All agents end, and their pods are replaced as by the operator."""
    assert {index: agent.wait(60) for index, agent in job.agents.items()} == {1: 1, 2: 1}
    began = time.time()
    job.host = successor
    successor.want(2, 2)
    job.start(1, 2)
    _log.info("new host to next step: %.1f s", job.step_after(began, 2))
    assert successor.state()["roundsEnded"] == {"requested": 0, "unrequested": 0}


@pytest.mark.parametrize("python", PYTHONS)
def test_a_job_lives_through_all_changes(python: str, tmp_path: Path) -> None:
    with running_host(tmp_path, python=python) as host:
        job = Job(host, tmp_path, ALL_REDUCE, python)
        try:
            with Operator(host):
                _changes(job)
            host.stop(signal.SIGKILL)
            with running_host(tmp_path, host.http_port, host.port, python=python) as successor:
                _restart_of_the_host(job, successor)
                assert job.end() == {1: 0, 2: 0}
                wait_for(lambda: successor.state()["closed"], "the agents' success closes the rendezvous")
                assert successor.metrics()["reopened_total"] == 0
        finally:
            job.close()


@pytest.mark.parametrize("python", PYTHONS)
def test_agents_of_the_launcher_outlive_the_host(python: str, tmp_path: Path) -> None:
    with lasting_job(tmp_path, python) as job:
        check_that_workers_go_on(job)
