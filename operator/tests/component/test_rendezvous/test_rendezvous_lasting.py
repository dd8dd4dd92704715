"""Agents that the launcher starts outlive their rendezvous host: the workers go on, and the next host takes over."""

from pathlib import Path

import pytest

from lasting_agents import check_that_workers_go_on, lasting_job

pytestmark = [pytest.mark.torch, pytest.mark.timeout(600)]


def test_the_workers_go_on_while_the_host_is_away(tmp_path: Path) -> None:
    with lasting_job(tmp_path) as job:
        check_that_workers_go_on(job)
