"""Snapshots at a URL of a real S3 server: complete or absent, whatever happens to the writer."""

import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from torchrun_trainer import Run, SnapshotError, snapshot
from torchrun_trainer.snapshots.place import place

pytestmark = [pytest.mark.slow, pytest.mark.torch, pytest.mark.timeout(900)]

# More than s3fs sends in one piece.
UPLOAD = """
import sys, torch
from torchrun_trainer import snapshot
state = {"values": torch.zeros(20_000_000)}
for step in range(int(sys.argv[2]), 1_000_000):
    state["values"] += 1
    print("begins", flush=True)
    snapshot.save(sys.argv[1], step, {"step": step, **state})
    print(step, flush=True)
"""


def test_a_run_goes_on_and_passes_over_a_damaged_object(bucket: str, caplog: pytest.LogCaptureFixture) -> None:
    url = f"{bucket}/team/run"
    model = torch.nn.Linear(4, 4)
    assert list(Run(url, snapshot_every=2, keep_best="accuracy", model=model).steps(5)) == list(range(5))
    newest, before = snapshot.available(url)
    assert (newest.step, before.step) == (5, 4)
    storage = place(url).storage
    data = bytearray(storage.get(newest.name) or b"")
    data[len(data) // 2] ^= 1
    storage.put(newest.name, bytes(data))
    run = Run(url, snapshot_every=2, keep_best="accuracy", model=model)
    assert run.step == 4
    assert [record.getMessage() for record in caplog.records] == [
        f"snapshot {newest.location} is damaged: its checksum differs"
    ]
    for step in run.steps(9):
        run.report(accuracy=1.0 if step == 4 else 0.5)
    assert [(found.step, found.facts) for found in snapshot.available(url)] == [
        (9, {"accuracy": "0.5"}),
        (8, {"accuracy": "0.5"}),
        (5, {"accuracy": "1"}),
    ]


def test_a_single_object_is_replaced(bucket: str, tmp_path: Path) -> None:
    url = f"{bucket}/snapshot.pth"
    for steps in (1, 2):
        list(Run(url, model=torch.nn.Linear(1, 1)).steps(steps))
    storage = place(url).storage
    (tmp_path / "copy.pth").write_bytes(storage.get("snapshot.pth") or b"")
    assert torch.load(tmp_path / "copy.pth", weights_only=True)["step"] == 2
    assert [name for name in storage.files() if name.endswith("owner")] == []


def test_a_bucket_that_is_not_there_is_an_error(bucket: str) -> None:
    with pytest.raises(SnapshotError, match="s3://absent/run cannot be used for snapshots: "):
        Run("s3://absent/run", model=torch.nn.Linear(1, 1))


def test_killed_while_sending_leaves_the_newest_complete_object(bucket: str) -> None:
    url, done = f"{bucket}/killed", 0
    chance = random.Random(0)
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", UPLOAD, url, str(done + 1)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout
            for line in writer.stdout:
                if line != "begins\n":
                    done = int(line)
                    break
            threading.Event().wait(chance.uniform(0, 1))
            writer.send_signal(signal.SIGKILL)
            said = [int(line) for line in writer.stdout if line != "begins\n"]
        newest = snapshot.newest(url)
        assert newest
        assert newest.step >= max([done, *said])
        assert snapshot.load(newest)["step"] == newest.step
        done = newest.step
    assert not [name for name in place(url).storage.files() if name.endswith(".corrupt")]
