"""Agents that the launcher starts outlive their rendezvous host: the workers go on, and the next host takes over."""

import time
from pathlib import Path

import pytest

from lasting_agents import check_that_workers_go_on, lasting_job, successor_of
from rendezvous_host import wait_for

pytestmark = [pytest.mark.torch, pytest.mark.timeout(600)]


def test_the_workers_go_on_while_the_host_is_away(tmp_path: Path) -> None:
    with lasting_job(tmp_path) as job:
        check_that_workers_go_on(job)


def test_a_round_that_was_new_begins_again_in_the_same_containers(tmp_path: Path) -> None:
    with lasting_job(tmp_path) as job:
        job.host.want(size=2, minimum=2)
        job.start(0, 1)
        wait_for(lambda: job.host.events("round-completed"), "the round is complete")
        with successor_of(job.host, job) as host:
            moment = time.time()
            host.want(size=2, minimum=2)
            job.step_after(moment, 2)
            assert host.state()["roundsEnded"]["unrequested"] == 0
            assert job.end() == {0: 0, 1: 0}
