"""An interrupted, resized run computes the same as an undisturbed one: real torchrun, real kills."""

import contextlib
import os
import random
import signal
import subprocess
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from support import agents
from torchrun_trainer import GlobalBatches

pytestmark = pytest.mark.torch

WORKER = Path(__file__).parent / "exact_worker.py"
SAMPLES, BATCH, EPOCHS = 90, 22, 40
BATCHES = GlobalBatches(SAMPLES, BATCH)
TOTAL = BATCHES.steps(EPOCHS)
_RESTARTS = 100


class Job:
    """An agent and its workers, which train in one directory up to a gate."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.workers = 0
        self.agent: subprocess.Popen[bytes] | None = None

    def start(self, workers: int) -> None:
        command = agents.command([str(WORKER), str(self.directory)], workers, _RESTARTS)
        self.workers = workers
        with (self.directory / "log").open("ab") as log:
            self.agent = subprocess.Popen(command, stdout=log, stderr=log, env=agents.environment(_RESTARTS))

    def allow(self, steps: int) -> None:
        """Let the workers continue up to a step."""
        temporary = self.directory / "gate.tmp"
        temporary.write_text(str(steps))
        temporary.replace(self.directory / "gate")

    def wait_at(self, step: int) -> list[int]:
        """Wait until all workers have reached a step; return their process ids."""
        waiting: list[list[str]] = []

        def there() -> bool:
            waiting[:] = [self._waiting(rank) for rank in range(self.workers)]
            return all(words[1:] == [str(step)] for words in waiting)

        self._until(there)
        return [int(words[0]) for words in waiting]

    def _waiting(self, rank: int) -> list[str]:
        """Return the process and step of a current worker: a process that is gone no longer waits."""
        with contextlib.suppress(FileNotFoundError):
            words = (self.directory / f"waiting-{rank}").read_text().split()
            if words and Path(f"/proc/{words[0]}").exists():
                return words
        return []

    def _until(self, condition: Callable[[], bool]) -> None:
        assert self.agent
        pause = threading.Event()
        while not condition():
            assert self.agent.poll() is None, (self.directory / "log").read_text()
            pause.wait(0.02)

    def drain(self, beyond: int) -> None:
        """Make the agent stop the workers at the end of a step."""
        assert self.agent
        self.agent.terminate()
        self.allow(beyond)
        self.agent.wait()

    def crash(self) -> None:
        """Kill the agent, the workers and their loaders."""
        if self.agent is None or self.agent.poll() is not None:
            return
        doomed = [self.agent.pid, *descendants(self.agent.pid)]
        for process in doomed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.agent.wait()

    def finish(self) -> None:
        self.allow(TOTAL)
        assert self.agent
        assert self.agent.wait() == 0, (self.directory / "log").read_text()


def descendants(process: int) -> list[int]:
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            for child in (thread / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


@contextlib.contextmanager
def job(directory: Path) -> Iterator[Job]:
    directory.mkdir()
    (directory / "gate").write_text("0")
    running = Job(directory)
    try:
        yield running
    finally:
        running.crash()


def losses_and_samples(directory: Path) -> tuple[dict[int, float], list[int]]:
    """Return the loss of each step, and the samples in the order of the steps, of the last attempt at each."""
    attempts: dict[int, dict[int, list[tuple[float, list[int]]]]] = defaultdict(lambda: defaultdict(list))
    for file in sorted(directory.glob("*-*.txt")):  # by attempt, then rank
        for line in file.read_text().splitlines():
            step, loss, taken = line.split()
            attempt = int(file.name.split("-")[0])
            attempts[int(step)][attempt].append((float(loss), list(map(int, taken.split(",")))))
    last = {step: attempts[step][max(attempts[step])] for step in sorted(attempts)}
    samples = [index for ranks in last.values() for _loss, taken in ranks for index in taken]
    return {step: ranks[0][0] for step, ranks in last.items()}, samples


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("exactness") / "undisturbed"
    with job(directory) as running:
        running.start(1)
        running.finish()
    return directory


def disturb(running: Job, faults: int, chance: random.Random) -> Counter[str]:
    """Kill workers, resize after a drain, and resize after a crash, each at a random step."""
    running.start(chance.randint(1, 4))
    happened: Counter[str] = Counter()
    for fault in range(faults):
        gate = chance.randint(TOTAL * fault // (faults + 1), TOTAL * (fault + 1) // (faults + 1) - 2)
        running.allow(gate)
        workers = running.wait_at(gate)
        kind = ("kill", "drain", "crash")[fault % 3]
        happened[kind] += 1
        if kind == "kill":
            os.kill(chance.choice(workers), signal.SIGKILL)
            continue  # the agent restarts all
        if kind == "drain":
            running.drain(beyond=gate + 1)
        else:
            running.crash()
        running.start(chance.choice([size for size in range(1, 5) if size != running.workers]))
    running.finish()
    return happened


@pytest.mark.parametrize(
    ("faults", "seed"),
    [(3, 1), pytest.param(20, 2, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])],
)
def test_faults_and_resizes_change_nothing(faults: int, seed: int, undisturbed: Path, tmp_path: Path) -> None:
    with job(tmp_path / "disturbed") as running:
        happened = disturb(running, faults, random.Random(seed))
    assert sum(happened.values()) == faults
    expected, order = losses_and_samples(undisturbed)
    losses, samples = losses_and_samples(running.directory)
    assert list(losses) == list(expected) == list(range(TOTAL))
    assert losses == pytest.approx(expected, rel=1e-5)
    assert samples == order
    for epoch in range(EPOCHS):
        assert sorted(samples[epoch * SAMPLES : (epoch + 1) * SAMPLES]) == list(range(SAMPLES))
    final, wanted = (torch.load(directory / "final.pt") for directory in (running.directory, undisturbed))
    for name, parameter in wanted.items():
        assert torch.linalg.norm(final[name] - parameter) <= 1e-5 * torch.linalg.norm(parameter), name
