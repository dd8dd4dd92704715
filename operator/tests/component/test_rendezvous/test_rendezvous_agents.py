"""Real torchrun agents, wired as in their pods, with a real rendezvous host; loopback addresses stand for pods."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import pytest

_log = logging.getLogger(__name__)
pytestmark = [pytest.mark.torch, pytest.mark.timeout(900)]

# Training that cannot go on without all of its members; it ends once `until` exists.
ALL_REDUCE = """
import os, sys, time
from datetime import timedelta
import torch, torch.distributed as dist

out, until = sys.argv[1:]
dist.init_process_group("gloo", timeout=timedelta(seconds=60))
rank, world, step = dist.get_rank(), dist.get_world_size(), 0
while os.getppid() != 1:
    done = torch.tensor(float(os.path.exists(until)))
    dist.all_reduce(done)
    if rank == 0:
        with open(out, "a") as lines:
            lines.write(f"{time.time()} {step} {world} {os.environ['GROUP_RANK']}\\n")
    if done:
        break
    step += 1
    time.sleep(0.02)
dist.destroy_process_group()
"""
# Workers that need nobody: each goes on until it is told to fail or that all is done.
ALONE = """
import os, sys, time

out, until = sys.argv[1:]
address = os.environ["POD_IP"]
step = 0
while os.getppid() != 1 and not os.path.exists(until):
    with open(out, "a") as lines:
        lines.write(f"{time.time()} {step} {os.environ['WORLD_SIZE']} {os.environ['GROUP_RANK']}\\n")
    step += 1
    if os.path.exists(f"{until}.fail.{address}"):
        os.remove(f"{until}.fail.{address}")
        sys.exit(3)
    time.sleep(0.05)
"""


T = TypeVar("T")


class Host(Protocol):
    port: int
    rendezvous_id: str

    @staticmethod
    def wait_for(condition: Callable[[], T | None], what: str, seconds: float = 180) -> T: ...
    def state(self) -> dict[str, object]: ...
    def want(self, size: int, minimum: int = 1, leavers: tuple[str, ...] = (), last_call: float = 1.0) -> None: ...
    def close(self) -> None: ...
    def events(self, kind: str) -> list[dict[str, object]]: ...


class Line(NamedTuple):
    time: float
    step: int
    world: int
    rank: int


def address(index: int) -> str:
    return f"127.0.0.{index + 10}"


@dataclass
class Job:
    host: Host
    directory: Path
    script: str
    agents: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def until(self) -> Path:
        return self.directory / "until"

    def start(self, *indexes: int) -> None:
        program = self.directory / "train.py"
        program.write_text(self.script)
        for index in indexes:
            conf = {
                "is_host": 0,
                "join_timeout": 86400,
                "last_call_timeout": 86400,
                "keep_alive_interval": 5,
                "keep_alive_max_attempt": 6,
                "read_timeout": 60,
            }
            wiring = {
                "POD_IP": address(index),
                "PET_NNODES": "1:1048576",
                "PET_NPROC_PER_NODE": "1",
                "PET_MAX_RESTARTS": "1000000",
                "PET_RDZV_ID": self.host.rendezvous_id,
                "PET_RDZV_BACKEND": "c10d",
                "PET_RDZV_ENDPOINT": f"127.0.0.1:{self.host.port}",
                "PET_RDZV_CONF": ",".join(f"{k}={v}" for k, v in conf.items()),
                "PET_LOCAL_ADDR": address(index),
                "PET_MONITOR_INTERVAL": "0.1",
                "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
                "TORCH_ELASTIC_WORKER_IDENTICAL": "1",
                "TORCHELASTIC_ERROR_FILE": str(self.directory / f"error-{index}.json"),
                "OMP_NUM_THREADS": "1",
                "GLOO_SOCKET_IFNAME": "lo",
            }
            command = [sys.executable, "-m", "torch.distributed.run", str(program), str(self.steps), str(self.until)]
            with (self.directory / f"agent-{index}.log").open("ab") as log:
                self.agents[index] = subprocess.Popen(
                    command, env={**os.environ, **wiring}, stdout=log, stderr=log, start_new_session=True
                )

    @property
    def steps(self) -> Path:
        return self.directory / "steps"

    def lines(self) -> list[Line]:
        if not self.steps.exists():
            return []
        rows = [line.split() for line in self.steps.read_text().splitlines()]
        return [Line(float(r[0]), int(r[1]), int(r[2]), int(r[3])) for r in rows if len(r) == 4]

    def step_after(self, moment: float, world: int, seconds: float = 180) -> float:
        """Return the seconds from the moment to the first step of a world of that size after it."""

        def first() -> float | None:
            return next(
                (line.time - moment for line in self.lines() if line.time > moment and line.world == world), None
            )

        return self.host.wait_for(first, f"a step in a world of {world}", seconds)

    def kill(self, index: int) -> float:
        """Kill a node as if its machine were gone, workers first seen included; returns when."""
        agent = self.agents.pop(index)
        family = [agent.pid, *_descendants(agent.pid)]
        moment = time.time()
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        agent.wait(10)
        return moment

    def end(self) -> dict[int, int]:
        """Let the workers succeed; returns the agents' exit codes."""
        self.until.touch()
        return {index: agent.wait(180) for index, agent in self.agents.items()}

    def addresses(self) -> list[str]:
        state = self.host.state()
        members = state["members"]
        assert isinstance(members, list)
        return [m["address"] for m in members] if state["complete"] else []

    def formed(self, *indexes: int, seconds: float = 180) -> None:
        expected = [address(i) for i in sorted(indexes)]
        self.host.wait_for(lambda: self.addresses() == expected, f"a round of {expected}", seconds)


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *_descendants(child)]
    return found


@pytest.fixture
def job(host: Host, tmp_path: Path) -> Iterator[Job]:
    made = Job(host, tmp_path, ALONE)
    yield made
    for index in list(made.agents):
        made.kill(index)


def _ended(host: Host) -> object:
    return host.state()["roundsEnded"]


def test_a_killed_node_is_left_behind_and_a_new_one_joins(job: Job, host: Host) -> None:
    job.script = ALL_REDUCE
    host.want(3, 2)
    began = time.time()
    job.start(0, 1, 2)
    _log.info("%s: %.1f s", "start to first step", job.step_after(began, 3))

    for victim, survivors in ((1, (0, 2)), (0, (1, 2))):
        job.formed(0, 1, 2)
        moment = job.kill(victim)
        host.want(2, 2, (address(victim),))
        _log.info("%s: %.1f s", f"kill of rank {victim} to next step", job.step_after(moment, 2))
        job.formed(*survivors)

        began = time.time()
        job.start(victim)
        host.want(3, 2)
        _log.info("%s: %.1f s", f"new agent {victim} to next step", job.step_after(began, 3))

    job.formed(0, 1, 2)
    assert _ended(host) == {"requested": 4, "unrequested": 0}
    assert job.end() == {0: 0, 1: 0, 2: 0}
    host.wait_for(lambda: host.state()["closed"], "the agents' success closes the rendezvous")


def test_failing_workers_surplus_nodes_and_the_end(job: Job, host: Host) -> None:
    host.want(3, 2)
    job.start(0, 1, 2)
    job.formed(0, 1, 2)

    (job.directory / f"until.fail.{address(1)}").touch()
    host.wait_for(lambda: host.events("round-ended"), "the failed worker ends the round")
    job.formed(0, 1, 2)
    assert _ended(host) == {"requested": 0, "unrequested": 1}
    last = host.state()["lastUnrequested"]
    assert isinstance(last, dict)
    assert (last["round"], last["addresses"]) == (0, [address(1)])

    # Scaled down as the operator does it: the node is named, and its pod gets SIGTERM.
    host.want(2, 2, (address(2),))
    job.agents[2].send_signal(signal.SIGTERM)
    job.formed(0, 1)
    assert job.agents.pop(2).wait(180) != 0

    # An agent nobody wants waits; whoever trains is not disturbed, neither now nor once the round has settled.
    completed = host.events("round-completed")
    host.want(2, 2)
    job.start(2)
    host.wait_for(lambda: host.state()["waiting"] == [address(2)], "the surplus node waits")
    settled = {"event": "round-settled", "round": completed[-1]["round"]}
    host.wait_for(
        lambda: any(settled.items() <= event.items() for event in host.events("round-settled")), "the round has settled"
    )
    assert host.events("round-completed") == completed
    host.want(3, 2)
    job.formed(0, 1, 2)
    assert _ended(host) == {"requested": 2, "unrequested": 1}

    assert job.end() == {0: 0, 1: 0, 2: 0}
    host.wait_for(lambda: host.state()["closed"], "the agents' success closes the rendezvous")


def test_rank_0_dies_before_it_says_where_it_is(job: Job, host: Host) -> None:
    host.want(4, 4)
    job.start(0, 1, 2)
    everybody = [address(i) for i in range(3)]
    host.wait_for(lambda: host.state()["waiting"] == everybody, "three nodes wait for the fourth")
    job.agents[0].send_signal(signal.SIGSTOP)
    host.want(3, 3)
    job.formed(0, 1, 2)

    moment = job.kill(0)
    host.want(2, 2, (address(0),))
    job.formed(1, 2)
    _log.info("kill of rank 0 to next step: %.1f s", job.step_after(moment, 2))
    assert [e["key"] for e in host.events("repaired")] == ["MASTER_ADDR", "MASTER_PORT"]
    assert job.end() == {1: 0, 2: 0}


def test_closing_sends_the_agents_home(job: Job, host: Host) -> None:
    host.want(2, 2)
    job.start(0, 1)
    job.formed(0, 1)
    host.close()
    assert {index: agent.wait(180) for index, agent in job.agents.items()} == {0: 1, 1: 1}
    assert host.state()["closed"] is True
