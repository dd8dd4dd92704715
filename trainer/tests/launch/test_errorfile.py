"""Real agents name the rank that failed first, and its error, though the script has no decorator."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ONE_FAILS_AND_THE_OTHER_WAITS = """
import torch, torch.distributed as dist
from torchrun_trainer import Run
dist.init_process_group("gloo")
run = Run()
for step in run.steps(5):
    if step == 2 and run.rank == 1:
        raise ValueError("the labels of shard 7 are missing")
    dist.all_reduce(torch.ones(1))
"""

NO_PROCESS_GROUP = """
from torchrun_trainer import Run
for step in Run().steps(5):
    pass
"""

RECORDING = "from torchrun_trainer.launch.errorfile import record_errors\nrecord_errors()\nrecord_errors()"


def fail(script: str, tmp_path: Path) -> tuple[dict[str, Any], str]:
    """Run a script with two workers; return the error file that the agent has written, and its summary."""
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["--monitor-interval=0.1", str(tmp_path / "script.py")]
    own = tmp_path / "agent.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCHELASTIC_ERROR_FILE": str(own)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == 1
    summary = done.stderr.partition("Root Cause (first observed failure):")[2]
    return json.loads(own.read_text())["message"], summary


@pytest.mark.torch
@pytest.mark.parametrize(
    ("script", "rank", "message"),
    [
        (ONE_FAILS_AND_THE_OTHER_WAITS, "1", "ValueError: the labels of shard 7 are missing"),
        (NO_PROCESS_GROUP, None, "LaunchError: torchrun has started 2 workers, but there is no process group: "),
    ],
    ids=["while the other waits", "no process group"],
)
def test_the_agent_names_the_cause(tmp_path: Path, script: str, rank: str | None, message: str) -> None:
    written, summary = fail(script, tmp_path)
    assert written["message"].startswith(message)
    assert written["extraInfo"]["rank"] == rank or rank is None
    assert written["extraInfo"]["py_callstack"].startswith("Traceback (most recent call last):\n")
    assert re.search(rf"rank      : {rank or '[01]'} \(local_rank: ", summary)
    assert message in summary


def raise_in_process(error: str, file: Path | str, *, before: str = RECORDING) -> str:
    """Let a process fail with an error; return its standard error."""
    script = f"{before}\nraise {error}"
    environment = {**os.environ, "TORCHELASTIC_ERROR_FILE": str(file), "RANK": "3"}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False).stderr


def test_the_format(tmp_path: Path) -> None:
    file = tmp_path / "error.json"
    said = raise_in_process("ValueError('wrong')", file)
    message = json.loads(file.read_text())["message"]
    stamp = message["extraInfo"].pop("timestamp")
    assert stamp.isdecimal()
    assert message == {"message": "ValueError: wrong", "extraInfo": {"py_callstack": said, "rank": "3"}}
    assert said.startswith("Traceback (most recent call last):\n")
    assert said.count("ValueError: wrong") == 1


@pytest.mark.parametrize("error", ["KeyboardInterrupt()", "SystemExit('no')"])
def test_what_is_no_failure_is_not_recorded(tmp_path: Path, error: str) -> None:
    raise_in_process(error, tmp_path / "error.json")
    assert not (tmp_path / "error.json").exists()


@pytest.mark.torch
def test_to_import_run_is_enough_and_what_a_decorator_has_recorded_stays(tmp_path: Path) -> None:
    file = tmp_path / "error.json"
    raise_in_process("ValueError('before the run')", file, before="from torchrun_trainer import Run")
    assert json.loads(file.read_text())["message"]["message"] == "ValueError: before the run"
    raise_in_process("ValueError('another')", file)
    assert json.loads(file.read_text())["message"]["message"] == "ValueError: before the run"


def test_a_file_that_cannot_be_written_hides_nothing() -> None:
    said = raise_in_process("ValueError('wrong')", "/nowhere/error.json")
    assert said.startswith("/nowhere/error.json cannot be written: [Errno 2] ")
    assert said.endswith("ValueError: wrong\n")


def test_outside_of_torchrun_nothing_is_written() -> None:
    assert raise_in_process("ValueError('wrong')", "").endswith("ValueError: wrong\n")


def test_what_follows_from_another_failure_comes_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchrun_trainer.launch import errorfile

    monkeypatch.setattr("torchrun_trainer.launch.errorfile.time.time", lambda: 1000.9)
    stamps = []
    for number, error in enumerate([ValueError("wrong"), RuntimeError("[1] Connection closed by peer [::1]:5")]):
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / str(number)))
        errorfile._record(error)
        stamps.append(json.loads((tmp_path / str(number)).read_text())["message"]["extraInfo"]["timestamp"])
    assert stamps == ["1000", "1001"]
