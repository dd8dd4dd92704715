"""Agents that the launcher starts, and their rendezvous host, which is killed: the workers must go on."""

import itertools
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rendezvous_agents import ALL_REDUCE, Job, address
from rendezvous_host import Host, running_host, wait_for
from torchrun_operator.programs import zipapp

SEEK_SECONDS = 2.0


@contextmanager
def lasting_job(directory: Path, python: str = sys.executable) -> Iterator[Job]:
    """Make a job whose nodes start with the launcher, and its host. `python` is another Python with another torch."""
    launcher = directory / "python"
    launcher.write_bytes(zipapp("torchrun_launcher"))
    launcher.chmod(0o755)
    with running_host(directory, python=python) as host:
        job = Job(host, directory, ALL_REDUCE, python, launcher=launcher)
        try:
            yield job
        finally:
            job.close()


@contextmanager
def successor_of(host: Host, job: Job) -> Iterator[Host]:
    """Kill the host, and run another one at its address."""
    host.stop(signal.SIGKILL)
    with running_host(
        job.directory, host.http_port, host.port, python=job.python, seek_seconds=SEEK_SECONDS
    ) as successor:
        job.host = successor
        yield successor


def check_that_workers_go_on(job: Job) -> None:
    """Start two nodes, and kill the host: no worker starts again, and the next host leads the job."""
    job.host.want(size=2, minimum=2)
    job.start(0, 1)
    job.formed(0, 1)
    # A host that takes over before all have seen the round must end it.
    wait_for(lambda: job.host.events("round-settled"), "all have seen the round")
    job.step_after(time.time() + 2, 2)
    before = job.host.state()
    with successor_of(job.host, job) as host:
        after = host.state()
        assert after["instance"] == before["instance"]
        assert after["members"] == before["members"]
        assert (after["round"], after["complete"], after["roundsEnded"]) == (0, True, before["roundsEnded"])
        assert after["version"] > before["version"]
        (taken,) = host.events("taken-over")
        assert (taken["round"], taken["sameInstance"]) == (0, True)
        host.want(size=2, minimum=1, last_call=0.5)
        job.step_after(time.time() + 3, 2)
        assert host.state()["complete"]
        lines = job.lines()
        assert [line.step for line in lines] == list(range(len(lines))), "the workers have started again"
        pauses = [later.time - line.time for line, later in itertools.pairwise(lines)]
        assert max(pauses) < 2.0
        moment = job.kill(1)
        job.step_after(moment, 1)
        assert host.state()["members"] == [{"address": address(0), "rank": 0}]
        assert job.end() == {0: 0}
