"""Agents that the launcher starts outlive their rendezvous host: the workers go on, and the next host takes over."""

import itertools
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rendezvous_agents import ALL_REDUCE, Job, address
from rendezvous_host import Host, running_host, wait_for
from torchrun_operator.programs import zipapp

pytestmark = [pytest.mark.torch, pytest.mark.timeout(600)]

SEEK_SECONDS = 2.0


@pytest.fixture
def lasting(tmp_path: Path) -> Iterator[Job]:
    """A job whose nodes start with the launcher."""
    launcher = tmp_path / "python"
    launcher.write_bytes(zipapp("torchrun_launcher"))
    launcher.chmod(0o755)
    with running_host(tmp_path) as host:
        job = Job(host, tmp_path, ALL_REDUCE, launcher=launcher)
        try:
            yield job
        finally:
            job.close()


def replaced(job: Job) -> Iterator[Host]:
    """Kill the host, and run another one at its address until the next value is asked for."""
    old = job.host
    old.stop(signal.SIGKILL)
    with running_host(job.directory, old.http_port, old.port, seek_seconds=SEEK_SECONDS) as host:
        job.host = host
        yield host


def test_the_workers_go_on_while_the_host_is_away(lasting: Job) -> None:
    lasting.host.want(size=2, minimum=2)
    lasting.start(0, 1)
    lasting.formed(0, 1)
    # A host that takes over before all have seen the round must end it.
    wait_for(lambda: lasting.host.events("round-settled"), "all have seen the round")
    lasting.step_after(time.time() + 2, 2)
    before = lasting.host.state()
    for host in replaced(lasting):
        after = host.state()
        assert after["instance"] == before["instance"]
        assert after["members"] == before["members"]
        assert (after["round"], after["complete"], after["roundsEnded"]) == (0, True, before["roundsEnded"])
        assert after["version"] > before["version"]
        (taken,) = host.events("taken-over")
        assert (taken["round"], taken["sameInstance"]) == (0, True)
        host.want(size=2, minimum=1, last_call=0.5)
        lasting.step_after(time.time() + 3, 2)
        assert host.state()["complete"]
        lines = lasting.lines()
        assert [line.step for line in lines] == list(range(len(lines))), "the workers have started again"
        pauses = [later.time - line.time for line, later in itertools.pairwise(lines)]
        assert max(pauses) < 2.0
        # The new host leads the job: a node fails, and the other one goes on without it.
        moment = lasting.kill(1)
        lasting.step_after(moment, 1)
        assert lasting.host.state()["members"] == [{"address": address(0), "rank": 0}]
        assert lasting.end() == {0: 0}
