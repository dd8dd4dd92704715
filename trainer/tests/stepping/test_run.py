"""Real workers under real torchrun: they stop at one step, lose none, and continue with another number of workers."""

import contextlib
import math
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from support import agents
from torchrun_trainer import Run, SnapshotError, snapshot

pytestmark = pytest.mark.torch

WORKER = Path(__file__).parent / "elastic_worker.py"
TOTAL = 60
NEVER = -1


def torchrun(
    directory: Path, workers: int, pause_at: int = NEVER, restarts: int = 0
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    return agents.torchrun([str(WORKER), str(directory), str(TOTAL), str(pause_at)], workers, restarts)


def until(condition: Callable[[], bool], agent: subprocess.Popen[str]) -> None:
    """Wait for an effect of the agent's workers."""
    pause = threading.Event()
    while not condition():
        assert agent.poll() is None, "the workers have ended before"
        pause.wait(0.02)


def steps(directory: Path, rank: int) -> list[str]:
    return (directory / f"steps-{rank}").read_text().split()


def worker_pids(agent: subprocess.Popen[str]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()]


def stop(agent: subprocess.Popen[str]) -> None:
    """Send SIGTERM to all workers, without waiting for the agent to pass it on, and to the agent."""
    for pid in worker_pids(agent):
        os.kill(pid, signal.SIGTERM)
    agent.terminate()


def finish(directory: Path, workers: int) -> str:
    """Train to the end; return what was printed."""
    with torchrun(directory, workers) as agent:
        assert agent.stdout
        output = agent.stdout.read()
        assert agent.wait() == 0
    return output


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weight after an undisturbed training."""
    directory = tmp_path_factory.mktemp("undisturbed")
    finish(directory, 1)
    weight = (directory / "weight").read_text()
    assert math.isfinite(float(weight))  # otherwise any training would end with the same
    return weight


def test_sigterm_to_all_stops_every_rank_at_one_step_and_no_step_is_lost(tmp_path: Path, undisturbed: str) -> None:
    with torchrun(tmp_path, 2, pause_at=12) as agent:
        until((tmp_path / "paused").exists, agent)
        stop(agent)
        (tmp_path / "go").touch()
        agent.wait()
    before = [f"{step}/2" for step in range(13)]
    assert [steps(tmp_path, rank) for rank in (0, 1)] == [before, before]
    assert [found.step for found in snapshot.available(tmp_path / "snapshots")] == [13, 10]

    output = finish(tmp_path, 1)
    assert steps(tmp_path, 0) == before + [f"{step}/1" for step in range(13, TOTAL)]
    assert (tmp_path / "weight").read_text() == undisturbed
    assert re.findall("event=.*", output) == ["event=start at=13 world=1"]
    assert re.findall("step=.* world=.*", output)[0].startswith("step=14/60 epoch=0 loss=")


def test_sigterm_to_one_rank_stops_all(tmp_path: Path) -> None:
    with torchrun(tmp_path, 2, pause_at=12, restarts=1) as agent:
        until((tmp_path / "paused").exists, agent)
        os.kill(worker_pids(agent)[1], signal.SIGTERM)
        (tmp_path / "go").touch()
        assert agent.stdout
        output = agent.stdout.read()
        assert agent.wait() == 0
    assert re.findall("event=.*", output) == [
        "event=start at=0 world=2",
        "event=drain at=13 snapshot=13",
        "event=start at=13 world=2",
    ]
    assert [steps(tmp_path, rank) for rank in (0, 1)] == [[f"{step}/2" for step in range(TOTAL)]] * 2


def test_a_killed_rank_costs_the_steps_since_the_snapshot(tmp_path: Path, undisturbed: str) -> None:
    with torchrun(tmp_path, 2, pause_at=12, restarts=1) as agent:
        until((tmp_path / "paused").exists, agent)
        os.kill(worker_pids(agent)[1], signal.SIGKILL)
        (tmp_path / "go").touch()
        assert agent.wait() == 0
    done = [int(step.split("/")[0]) for step in steps(tmp_path, 0)]
    assert done[:13] == list(range(13))
    assert done[13:] == list(range(10, TOTAL))
    assert (tmp_path / "weight").read_text() == undisturbed


def test_the_number_of_workers_may_change_each_time(tmp_path: Path, undisturbed: str) -> None:
    for workers, pause_at in ((2, 7), (1, 21), (2, 33)):
        for name in ("paused", "go"):
            (tmp_path / name).unlink(missing_ok=True)
        with torchrun(tmp_path, workers, pause_at) as agent:
            until((tmp_path / "paused").exists, agent)
            stop(agent)
            (tmp_path / "go").touch()
            agent.wait()
    finish(tmp_path, 1)
    sizes = [2] * 8 + [1] * 14 + [2] * 12 + [1] * (TOTAL - 34)
    assert steps(tmp_path, 0) == [f"{step}/{size}" for step, size in enumerate(sizes)]
    assert (tmp_path / "weight").read_text() == undisturbed


def test_without_torchrun_or_snapshots(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHRUN_SNAPSHOT_PATH", raising=False)
    run = Run(model=torch.nn.Linear(1, 1))
    assert list(run.steps(3)) == [0, 1, 2]
    assert run.step == 3
    lines = [re.sub(r"time=\d+\.\d{3} ", "", line) for line in capsys.readouterr().out.splitlines()]
    assert lines == ["event=start at=0 world=1", "step=1/3 world=1", "step=3/3 world=1"]


def test_a_snapshot_of_something_else_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path, model=torch.nn.Linear(1, 1))
    assert list(run.steps(1)) == [0]
    with pytest.raises(SnapshotError, match=r"holds \['model'\], but this run has \['net'\]"):
        Run(tmp_path, net=torch.nn.Linear(1, 1))
