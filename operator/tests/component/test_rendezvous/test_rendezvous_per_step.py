"""Real agents of a job that recovers step by step: the workers of other nodes go on, whatever happens to one."""

import itertools
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from lasting_agents import SEEK_SECONDS, lasting_job
from rendezvous_agents import Job, address
from rendezvous_host import running_host, wait_for
from support.ports import free_port

pytestmark = [pytest.mark.torch, pytest.mark.timeout(600)]

TRAINING = """
import os, sys, time
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torchrun_trainer import Run, defer_compiler

out, until = sys.argv[1:]
torch.set_num_threads(1)
defer_compiler()
dist.init_process_group("gloo")
model = DistributedDataParallel(torch.nn.Linear(4, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
run = Run("", model=model, optimizer=optimizer)
for step in run.steps(1_000_000):
    with open(out, "a") as lines:
        lines.write(f"{time.time()} {step} {run.world_size} {os.environ['TORCHRUN_NODE_INDEX']} {os.getpid()}\\n")
    if os.path.exists(until):
        break
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    time.sleep(0.05)
dist.destroy_process_group()
"""


class Attempt(NamedTuple):
    """What a worker writes at the beginning of each attempt at a step."""

    time: float
    step: int
    world: int
    node: int
    pid: int


def attempts(job: Job, node: int) -> list[Attempt]:
    """Return those of a node."""
    lines = job.steps.read_text().splitlines() if job.steps.exists() else []
    rows = [line.split() for line in lines if line.count(" ") == 4]
    found = [Attempt(float(row[0]), *map(int, row[1:])) for row in rows]
    return [one for one in found if one.node == node]


def wait_for_world(job: Job, node: int, world: int) -> Attempt:
    """Wait until a node takes a step in a world of this size; return it."""
    began = time.time()

    def found() -> Attempt | None:
        return next((one for one in attempts(job, node) if one.time > began and one.world == world), None)

    return wait_for(found, f"node {node} in a world of {world}")


@pytest.fixture
def per_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    """Return a job of three nodes, of which two must be there."""
    port = free_port()
    monkeypatch.setenv("RDZV_LIGHTHOUSE_PORT", str(port))
    monkeypatch.setenv("RDZV_LIGHTHOUSE_GROUPS", "2")
    with lasting_job(tmp_path) as job:
        job.lighthouse = port
        job.script = TRAINING
        yield job


def test_the_workers_of_other_nodes_go_on(per_step: Job) -> None:
    job = per_step
    job.host.want(size=3, minimum=2)
    job.start(0, 1, 2)
    job.formed(0, 1, 2)
    workers = {node: wait_for_world(job, node, 3).pid for node in (0, 1)}

    killed = job.kill(2)
    job.formed(0, 1)
    wait_for_world(job, 0, 2)
    job.start(3)
    job.formed(0, 1, 3)
    for node in (0, 1, 3):
        wait_for_world(job, node, 3)
    after = {node: {one.pid for one in attempts(job, node) if one.time > killed} for node in (0, 1)}
    assert after == {node: {pid} for node, pid in workers.items()}

    # A planned change: the node that leaves is told, the others go on.
    job.host.want(size=2, minimum=2, leavers=(address(3),))
    job.agents[3].terminate()
    job.agents.pop(3).wait(60)
    job.formed(0, 1)
    wait_for_world(job, 0, 2)
    for node in (0, 1):
        steps = [one.step for one in attempts(job, node)]
        assert steps == sorted(steps)
        assert {one.pid for one in attempts(job, node)} == {workers[node]}
    longest = max(later.time - earlier.time for earlier, later in itertools.pairwise(attempts(job, 0)))
    assert longest < 30, "the others wait for no process that starts"
    assert job.end() == {0: 0, 1: 0}


def test_the_workers_go_on_once_the_host_is_back(per_step: Job) -> None:
    job = per_step
    job.host.want(size=2, minimum=2)
    job.start(0, 1)
    job.formed(0, 1)
    wait_for(lambda: job.host.events("round-settled"), "all have seen the round")
    workers = {node: wait_for_world(job, node, 2).pid for node in (0, 1)}
    job.host.stop(signal.SIGKILL)
    with running_host(job.directory, job.host.http_port, job.host.port, seek_seconds=SEEK_SECONDS) as successor:
        job.host = successor
        for node in (0, 1):
            assert wait_for_world(job, node, 2).pid == workers[node]
        assert job.end() == {0: 0, 1: 0}


def test_a_host_without_torchft_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchft.py").write_text("raise ImportError('there is none')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("RDZV_LIGHTHOUSE_PORT", str(free_port()))
    monkeypatch.setenv("RDZV_LIGHTHOUSE_GROUPS", "2")
    with running_host(tmp_path, ready=False) as host:
        assert host.process.wait(60) == 1
        assert "PerStep needs torchft, which the image lacks (there is none)" in host.log_path.read_text()
