"""Places that cannot be written or that another run owns are errors; a plain run loads no extra packages."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from torchrun_trainer import Run, SnapshotError, snapshot

pytestmark = pytest.mark.torch


def steps(directory: Path) -> list[int]:
    return [found.step for found in snapshot.available(directory)]


ON_A_FULL_DISK = """
import sys, pathlib, torch
from torchrun_trainer import Run, SnapshotError
directory = pathlib.Path(sys.argv[1])
model = torch.nn.Linear(100, 100)
run = Run(directory, snapshot_every=1, model=model)
steps = run.steps(20)
for step in steps:
    if step == 1:
        run._saver.finish()
        (directory / "ballast").write_bytes(b"0" * (LEFT))
"""

WITHOUT_DIRECTORY = """
import shutil, sys, torch
from torchrun_trainer import Run
run = Run(sys.argv[1] + "/gone", snapshot_every=1, model=torch.nn.Linear(1, 1))
for step in run.steps(20):
    if step == 1:
        run._saver.finish()
        shutil.rmtree(sys.argv[1] + "/gone")
"""

READ_ONLY = """
import sys, torch
from torchrun_trainer import Run
Run(sys.argv[1], model=torch.nn.Linear(1, 1))
"""


def mounted(options: str, directory: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script with a private file system at the directory."""
    mount = f"mount -t tmpfs -o {options} none {directory} && exec {sys.executable} -c '{script}' {directory}"
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount], text=True, capture_output=True, check=False, timeout=120
    )


needs_mounts = pytest.mark.skipif(
    sys.platform != "linux"
    or os.geteuid() != 0
    or subprocess.run(["unshare", "--mount", "true"], check=False).returncode != 0,
    reason="mounts a file system of its own, which takes root on Linux",
)


@needs_mounts
@pytest.mark.parametrize(
    ("options", "script", "messages"),
    [
        (
            "size=256k",
            ON_A_FULL_DISK.replace("LEFT", "262144 - 4096 * 20"),
            ["OSError: [Errno 28] No space left on device", "SnapshotError: 3 snapshots in a row could not be written"],
        ),
        ("ro", READ_ONLY, ["cannot be used for snapshots: OSError: [Errno 30] Read-only file system"]),
        (
            "size=1m",
            WITHOUT_DIRECTORY,
            ["FileNotFoundError: [Errno 2]", "SnapshotError: 3 snapshots in a row could not be written"],
        ),
    ],
    ids=["full", "read-only", "gone"],
)
def test_a_directory_that_cannot_be_written(tmp_path: Path, options: str, script: str, messages: list[str]) -> None:
    result = mounted(options, tmp_path, script)
    assert result.returncode == 1, result.stderr
    for message in messages:
        assert message in result.stderr


LEAN = """
import sys, torch, torch.distributed
from torchrun_trainer import Run
model = torch.nn.Linear(1, 1)
list(Run(sys.argv[1], model=model).steps(1))
print(sorted({"fsspec", "torch.distributed.checkpoint", "torch.distributed.tensor"} & set(sys.modules)))
"""


def test_a_plain_run_loads_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    script = [sys.executable, "-c", LEAN, str(tmp_path)]
    output = subprocess.run(script, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"


HOLD = """
import sys, torch
from torchrun_trainer import Run
run = Run(sys.argv[1], snapshot_every=1, model=torch.nn.Linear(1, 1))
for step in run.steps(10**9):
    if step == 1:
        run._saver.finish()
        print("ready", flush=True)
        sys.stdin.readline()
"""


def test_two_runs_on_one_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "first")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        try:
            assert first.stdout
            assert any(line == "ready\n" for line in first.stdout)
            monkeypatch.setenv("TORCHELASTIC_RUN_ID", "second")
            with pytest.raises(SnapshotError, match=rf"which is alive: first \(process {first.pid} on"):
                Run(tmp_path, model=torch.nn.Linear(1, 1))
            assert steps(tmp_path) == [1]
            monkeypatch.setenv("TORCHELASTIC_RUN_ID", "first")
            again = Run(tmp_path, model=torch.nn.Linear(1, 1))  # as after a restart, with the first process dying
            assert again.step == 1
        finally:
            first.send_signal(signal.SIGKILL)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "second")
    assert Run(tmp_path, model=torch.nn.Linear(1, 1)).step == 1
