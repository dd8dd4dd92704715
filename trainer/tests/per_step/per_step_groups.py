"""Replica groups of forked processes, which a test starts, kills and asks to leave."""

import itertools
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

from per_step_worker import Job, work
from support.waiting import wait_for

SECONDS = 120.0
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["per_step_worker"])


class Attempt(NamedTuple):
    """An attempt at a step."""

    time: float
    step: int
    rank: int
    world: int
    samples: tuple[int, ...]


@dataclass
class Groups:
    """Replica groups of one process each, unless ``job.size`` says otherwise."""

    job: Job
    processes: dict[str, list[ForkServerProcess]] = field(default_factory=dict)
    stores: Iterator[int] = field(default_factory=itertools.count)

    def start(self, name: str, dies_in: str = "") -> None:
        """Start a group, also again."""
        store = f"{self.job.directory}/{name}.store.{next(self.stores)}" if self.job.size > 1 else ""
        environment = {**self.job.environment, "REPLICA_GROUP_ID": name}
        one = replace(self.job, name=name, environment=environment, store=store, dies_in=dies_in)
        ranks = [replace(one, rank=rank, name=f"{name}.{rank}" if rank else name) for rank in range(one.size)]
        self.processes[name] = [_FORKS.Process(target=work, args=(rank,)) for rank in ranks]
        for process in self.processes[name]:
            process.start()

    def kill(self, name: str) -> None:
        """Kill a group without notice."""
        for process in self.processes[name]:
            process.kill()

    def leave(self, name: str) -> None:
        """Ask a group to leave, as torchrun does, and wait until it has."""
        for process in self.processes[name]:
            process.terminate()
        self.ended(name)

    def ended(self, name: str) -> list[int | None]:
        """Wait for the end of a group; return the exit codes."""
        for process in self.processes[name]:
            process.join(SECONDS)
        return [process.exitcode for process in self.processes[name]]

    def attempts(self, name: str) -> list[Attempt]:
        """Return what a group has tried."""
        found = []
        for line in self._lines(name):
            if not line.startswith("end"):
                when, step, rank, world, samples = line.split()
                taken = tuple(map(int, samples.split(",")))
                found.append(Attempt(float(when), int(step), int(rank), int(world), taken))
        return found

    def result(self, name: str) -> list[float]:
        """Return the parameters at the end."""
        (end,) = [line.split() for line in self._lines(name) if line.startswith("end")]
        assert end[1] == str(self.job.steps)
        return [float(value) for value in end[2:]]

    def wait(self, name: str, world: int, *, step: int = 0) -> Attempt:
        """Wait until a group tries to take a step in a world of this size; return its newest attempt."""

        def probe() -> Attempt | None:
            newest = self.attempts(name)[-1:]
            return newest[0] if newest and newest[0].world == world and newest[0].step >= step else None

        return wait_for(f"{name} in a world of {world}", probe, SECONDS)

    def stop(self) -> None:
        """Kill all."""
        for process in itertools.chain(*self.processes.values()):
            process.kill()
            process.join()

    def _lines(self, name: str) -> list[str]:
        path = Path(self.job.directory, name)
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [line for line in lines if line.endswith("\n")]
