"""The examples for Lightning, Accelerate and transformers with real workers: SIGTERM to one of them loses no step."""

import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from support import agents

EXAMPLES = Path(__file__).parents[3] / "e2e/examples"


def torchrun(
    example: str, directory: Path, workers: int, epochs: int
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    script = [str(EXAMPLES / example / "train.py"), f"--snapshot-path={directory}", f"--total-epochs={epochs}"]
    return agents.torchrun([*script, "--snapshot-every=1000", "--min-step-seconds=0.02"], workers, restarts=3)


def children(agent: subprocess.Popen[str]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()]


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "epochs", "least"),
    [("lightning_digits", 20, 0.9), ("accelerate_digits", 20, 0.9), ("hf_trainer", 8, 0.9)],
)
def test_training_goes_on_where_one_worker_was_told_to_stop(
    tmp_path: Path, example: str, epochs: int, least: float
) -> None:
    output = ""
    with torchrun(example, tmp_path, 2, epochs) as agent:
        assert agent.stdout
        while not re.search(r"step=\d\d+/", output):
            line = agent.stdout.readline()
            assert line, output
            output += line
        os.kill(children(agent)[1], signal.SIGTERM)
        output += agent.stdout.read()
        assert agent.wait() == 0
    drained = re.search(r"event=drain at=(\d+) snapshot=(\d+)", output)
    assert drained, output
    step = int(drained[1])
    assert int(drained[2]) == step
    assert re.findall(r"event=(?:start|drain) at=\d+", output) == [
        "event=start at=0",
        f"event=drain at={step}",
        f"event=start at={step}",
    ]
    steps = [int(number) for number in re.findall(r"step=(\d+)/", output)]
    assert steps == sorted(steps)
    assert step + 1 in steps  # the first report after the restart
    totals = set(re.findall(r"step=\d+/(\d+)", output))
    assert totals == {str(steps[-1])}
    (accuracy,) = re.findall("accuracy=(.*)", output)
    assert float(accuracy) >= least

    # Again on one worker: nothing is left to do.
    with torchrun(example, tmp_path, 1, epochs) as agent:
        assert agent.stdout
        again = agent.stdout.read()
        assert agent.wait() == 0
    assert "step=" not in again.replace(f"step={steps[-1]}/", "")
    assert re.findall("accuracy=(.*)", again) == [accuracy]
