"""Snapshots are complete or absent, and say when they are damaged."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from torchrun_trainer import SnapshotError, snapshot

SAVE_FOR_EVER = """
import sys, torch
from torchrun_trainer import snapshot
state = {"values": torch.arange(500_000)}
for step in range(1, 1_000_000):
    state["values"] += 1
    snapshot.save(sys.argv[1], step, state)
    print(step, flush=True)
"""


def names(directory: Path) -> list[int]:
    return [found.step for found in snapshot.available(directory)]


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    state = {"step": 7, "weights": torch.tensor([1.0, 2.0]), "list": [1, "a", None]}
    saved = snapshot.save(tmp_path / "new", 7, state)
    found = snapshot.newest(tmp_path / "new")
    assert found == saved
    loaded = snapshot.load(saved)
    assert loaded.pop("weights").tolist() == [1.0, 2.0]
    assert loaded == {"step": 7, "list": [1, "a", None]}
    assert torch.load(saved.path, weights_only=True)["step"] == 7


def test_nothing_saved_is_none(tmp_path: Path) -> None:
    assert snapshot.newest(tmp_path) is None
    assert snapshot.newest(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("steps", "keep", "kept"),
    [([1], 2, [1]), ([1, 2, 3], 2, [3, 2]), ([1, 2, 3], 1, [3]), ([5, 9, 3], 1, [9, 3]), ([4, 4], 1, [4])],
    ids=["one", "the newest two", "the newest", "later steps are never removed", "the same step again"],
)
def test_old_snapshots_are_removed(tmp_path: Path, steps: list[int], keep: int, kept: list[int]) -> None:
    for step in steps:
        snapshot.save(tmp_path, step, {"step": step}, keep)
    assert names(tmp_path) == kept


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize("damage", [flip, truncate])
def test_a_damaged_snapshot_is_passed_over(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    good = snapshot.save(tmp_path, 1, {"step": 1})
    bad = snapshot.save(tmp_path, 2, {"step": 2})
    damage(bad.path)
    with pytest.raises(SnapshotError, match=bad.path.name):
        snapshot.load(bad)
    assert snapshot.newest(tmp_path) == good
    assert [record.getMessage() for record in caplog.records] == [
        f"snapshot {bad.path} is damaged: its checksum differs"
    ]
    assert names(tmp_path) == [1]


def test_only_damaged_snapshots_are_an_error_that_stays(tmp_path: Path) -> None:
    bad = snapshot.save(tmp_path, 2, {"step": 2})
    flip(bad.path)
    for _ in range(2):
        with pytest.raises(SnapshotError, match=f"all snapshots are damaged: .*{bad.path.name}"):
            snapshot.newest(tmp_path)


def test_a_snapshot_that_only_rank_0_sees_names_the_cause(tmp_path: Path) -> None:
    saved = snapshot.save(tmp_path, 2, {"step": 2})
    saved.path.unlink()
    with pytest.raises(SnapshotError, match="must be shared by all nodes"):
        snapshot.load(saved)


@pytest.mark.torch
def test_killed_while_saving_leaves_a_complete_snapshot(tmp_path: Path) -> None:
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as saver:
            assert saver.stdout
            done = [int(saver.stdout.readline()) for _ in range(20)][-1]
            saver.send_signal(signal.SIGKILL)
        newest = snapshot.newest(tmp_path)
        assert newest
        assert newest.step >= done
        assert snapshot.load(newest)["values"].shape == (500_000,)
        assert not list(tmp_path.glob("*.corrupt"))
        for left in snapshot.available(tmp_path):
            left.path.unlink()
    snapshot.save(tmp_path, 1, {})
    assert [path.suffix for path in tmp_path.iterdir()] == [".pt"]
