"""Real torchrun agents with the settings of their pods. Loopback addresses represent pods, and relays their network."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from builders import COLD, make_job
from rendezvous_host import Host, wait_for
from torchrun_operator.render.node_pod import node_pod

# Training that needs all members. It ends once `until` exists.
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
# Independent workers. Each runs until a file makes it fail or succeed.
ALONE = """
import os, sys, time

out, until = sys.argv[1:]
address = os.environ["POD_IP"]
step = 0
while os.getppid() != 1 and not os.path.exists(until):
    with open(out, "a") as lines:
        lines.write(f"{time.time()} {step} {os.environ['WORLD_SIZE']} {os.environ['GROUP_RANK']}\\n")
    step += 1
    if os.path.exists(f"{until}.{address}"):
        break
    if os.path.exists(f"{until}.fail.{address}"):
        os.remove(f"{until}.fail.{address}")
        sys.exit(3)
    time.sleep(0.05)
"""


class Line(NamedTuple):
    """A step as a worker reported it."""

    time: float
    step: int
    world: int
    rank: int


def address(index: int) -> str:
    """Return the address of a node."""
    return f"127.0.0.{index + 10}"


class Relay:
    """The network between a node and the host's store. The host sees the address of the node. A test can cut it."""

    def __init__(self, source: str, port: int) -> None:
        self._source, self._target = source, port
        self._whole = threading.Event()
        self._whole.set()
        self._listener = socket.create_server((source, 0))
        self.endpoint = f"{source}:{self._listener.getsockname()[1]}"
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Forward nothing, not even the end of a connection."""
        self._whole.clear()

    def heal(self) -> None:
        """Forward everything again, including what was held back."""
        self._whole.set()

    def close(self) -> None:
        """Close all connections."""
        self.heal()
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                self._sockets.append(near)
                self._whole.wait()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target), source_address=(self._source, 0))
                except OSError:  # the host is down
                    near.close()
                    continue
                self._sockets.append(far)
                for ends in ((near, far), (far, near)):
                    for end in ends:
                        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=self._forward, args=ends, daemon=True).start()

    def _forward(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(1 << 16):
                self._whole.wait()
                other.sendall(data)
        self._whole.wait()
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@dataclass
class Job:
    """The agents of a job and the output of their workers."""

    host: Host
    directory: Path
    script: str
    python: str = sys.executable
    agents: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    relays: dict[int, Relay] = field(default_factory=dict)
    launcher: Path | None = None
    """The first process of each node, if that is the launcher."""
    workers: dict[int, int] = field(default_factory=dict)
    """The workers of nodes on Kubernetes nodes that differ, as with nprocPerNode: gpu. Empty: one for each node."""
    lighthouse: int = 0
    """The port of torchft's lighthouse, if the job recovers step by step."""

    @property
    def until(self) -> Path:
        """The file that makes workers succeed."""
        return self.directory / "until"

    @property
    def steps(self) -> Path:
        """The file in which workers write their steps."""
        return self.directory / "steps"

    def start(self, *indexes: int) -> None:
        """Start the agents of these nodes."""
        program = self.directory / "train.py"
        program.write_text(self.script)
        for index in indexes:
            if index not in self.relays:
                self.relays[index] = Relay(address(index), self.host.port)
            command = [self.python, "-m", "torch.distributed.run", str(program), str(self.steps), str(self.until)]
            if self.launcher is not None:
                command = [self.python, str(self.launcher), "--first", *command]
            with (self.directory / f"agent-{index}.log").open("ab") as log:
                self.agents[index] = subprocess.Popen(
                    command, env=self._environment(index), stdout=log, stderr=log, start_new_session=True
                )

    def _environment(self, index: int) -> dict[str, str]:
        """Return the environment of a node's pod, including the variables from Kubernetes."""
        mode = {"faultTolerance": {"mode": "PerStep"}} if self.lighthouse else COLD
        job = make_job(nprocPerNode="gpu" if self.workers else 1, **mode)
        variables = node_pod(job, index)["spec"]["containers"][0]["env"]
        wiring = {variable["name"]: variable.get("value", "") for variable in variables}
        own = {
            "POD_IP": address(index),
            "POD_NAME": f"digits-{index}",
            "PET_LOCAL_ADDR": address(index),
            "PET_NNODES": "1:1048576",
            "PET_NPROC_PER_NODE": str(self.workers.get(index, 1)),
            "PET_RDZV_ID": self.host.rendezvous_id,
            "PET_RDZV_ENDPOINT": self.relays[index].endpoint,
            "TORCHELASTIC_ERROR_FILE": str(self.directory / f"error-{index}.json"),
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
        }
        if self.lighthouse:
            own["TORCHFT_LIGHTHOUSE"] = f"http://127.0.0.1:{self.lighthouse}"
            own["REPLICA_GROUP_ID"] = own["POD_NAME"]
        warm = {} if self.launcher is None else {"PYTHON_EXEC": str(self.launcher)}
        return {**os.environ, **wiring, **own, **warm}

    def lines(self) -> list[Line]:
        """Return the steps so far."""
        if not self.steps.exists():
            return []
        rows = [line.split() for line in self.steps.read_text().splitlines()]
        return [Line(float(r[0]), int(r[1]), int(r[2]), int(r[3])) for r in rows if len(r) == 4]

    def step_after(self, moment: float, world: int, seconds: float = 180) -> float:
        """Return the seconds from that time to the next step with that world size."""

        def first() -> float | None:
            return next(
                (line.time - moment for line in self.lines() if line.time > moment and line.world == world), None
            )

        return wait_for(first, f"a step in a world of {world}", seconds)

    def kill(self, index: int) -> float:
        """Kill all processes of a node. Return the time."""
        agent = self.agents.pop(index)
        moment = time.time()
        self._signal(agent, signal.SIGKILL)
        agent.wait(10)
        return moment

    def freeze(self, index: int) -> float:
        """Stop all processes of a node and its network, as if its Kubernetes node were gone. Return the time."""
        moment = time.time()
        self.relays[index].cut()
        self._signal(self.agents[index], signal.SIGSTOP)
        return moment

    def thaw(self, index: int) -> None:
        """Let a frozen node continue."""
        self._signal(self.agents[index], signal.SIGCONT)
        self.relays[index].heal()

    def _signal(self, agent: subprocess.Popen[bytes], number: signal.Signals) -> None:
        for pid in (agent.pid, *_descendants(agent.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def end(self) -> dict[int, int]:
        """Let the workers succeed. Return the exit codes of the agents."""
        self.until.touch()
        return {index: agent.wait(180) for index, agent in self.agents.items()}

    def close(self) -> None:
        """End everything."""
        for index in list(self.agents):
            self.kill(index)
        for relay in self.relays.values():
            relay.close()

    def addresses(self) -> list[str]:
        """Return the members of the complete round, by rank."""
        state = self.host.state()
        return [m["address"] for m in state["members"]] if state["complete"] else []

    def formed(self, *indexes: int, seconds: float = 180) -> None:
        """Wait for a complete round of these nodes."""
        expected = [address(i) for i in sorted(indexes)]
        wait_for(lambda: self.addresses() == expected, f"a round of {expected}", seconds)


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *_descendants(child)]
    return found
