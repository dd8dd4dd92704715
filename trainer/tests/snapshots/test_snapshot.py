"""Snapshots are complete or absent, and damage is detected."""

import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from torchrun_trainer import SnapshotError, snapshot
from torchrun_trainer.snapshots import catalog, files
from torchrun_trainer.snapshots.place import place

KILLER = Path(__file__).parent / "snapshot_killer.py"


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


@pytest.mark.parametrize(
    ("metric", "values", "kept"),
    [
        ("accuracy", [0.5, 0.9, 0.7, 0.6], [4, 2]),
        ("-accuracy", [0.5, 0.9, 0.7, 0.6], [4, 1]),
        ("accuracy", [0.5, 0.9, 0.9, 0.6], [4, 3]),
        ("accuracy", [0.5, 1e-7, float("nan"), 2.5e10], [4]),
        ("other", [0.5, 0.9, 0.7, 0.6], [4]),
    ],
    ids=["highest", "lowest", "the later of equals", "odd numbers", "unknown"],
)
@pytest.mark.parametrize("url", ["", "memory://bucket/best"])
def test_the_best_is_kept(tmp_path: Path, metric: str, values: list[float], kept: list[int], url: str) -> None:
    at = place(url or tmp_path)
    for step, value in enumerate(values, start=1):
        newest = files.write(at, step, {}, {"accuracy": f"{value:.9g}"})
        catalog.prune(at, newest, 1, metric)
    assert [found.step for found in snapshot.available(url or tmp_path)] == kept
    for found in snapshot.available(url or tmp_path):
        assert found.metric("accuracy") == values[found.step - 1]
        at.storage.remove(found.name)


def test_a_metric_with_a_path_for_a_name(tmp_path: Path) -> None:
    saved = snapshot.save(tmp_path, 1, {}, facts={"val/top 1": "0.5"})
    assert saved.name.endswith(",val_top_1=0.5.pt")
    assert catalog.best_of(snapshot.available(tmp_path), "val/top 1") == saved
    assert saved.metric("shards") != saved.metric("shards")  # not a number


@pytest.mark.parametrize("url", ["", "memory://bucket/file"])
def test_a_path_that_names_a_file_holds_one_snapshot(tmp_path: Path, url: str) -> None:
    at = f"{url or tmp_path}/snapshot.pth"
    assert snapshot.newest(at) is None
    for step in (1, 2):
        saved = snapshot.save(at, step, {"step": step, "weights": torch.ones(1000)}, keep=5)
    assert (saved.location, saved.step) == (at, 2)
    assert snapshot.newest(at) == saved
    assert snapshot.load(saved)["step"] == 2
    if not url:
        assert torch.load(at, weights_only=True)["step"] == 2
        assert [path.name for path in tmp_path.iterdir()] == ["snapshot.pth"]


@pytest.mark.parametrize("damage", [flip, truncate, lambda path: path.write_text("something else")])
def test_a_damaged_single_file_is_an_error_and_stays(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "snapshot.pth"
    snapshot.save(path, 1, {"weights": torch.ones(1000)})
    damage(path)
    damaged = path.read_bytes()
    for _ in range(2):
        with pytest.raises(SnapshotError, match=r"snapshot.pth is damaged: .*; remove it to start from the beginning"):
            snapshot.newest(path)
    assert path.read_bytes() == damaged


def test_no_bit_of_the_end_of_a_single_file_leads_astray(tmp_path: Path) -> None:
    """The end of the file says where everything is. A few bits there mean nothing, and change nothing."""
    saved = snapshot.save(tmp_path / "snapshot.pth", 1, {"weights": torch.ones(3)})
    good = saved.path.read_bytes()
    unharmed = 0
    for position in range(len(good) - 120, len(good)):
        for bit in range(8):
            damaged = bytearray(good)
            damaged[position] ^= 1 << bit
            saved.path.write_bytes(damaged)
            try:
                assert snapshot.load(saved)["weights"].tolist() == [1, 1, 1]
                unharmed += 1
            except SnapshotError as error:
                assert re.search("is damaged: |cannot be read: ", str(error))  # noqa: PT017 (some are unharmed)
    assert unharmed < 300


@pytest.mark.parametrize(
    ("name", "made", "single"),
    [
        ("snapshots", None, None),
        ("run.v2", None, None),
        ("a.pt", None, "a.pt"),
        ("a.ckpt", "directory", None),
        ("a.pth", "file", "a.pth"),
    ],
    ids=["plain", "with a dot", "file", "directory like a file", "file that is there"],
)
def test_what_a_path_means(tmp_path: Path, name: str, made: str | None, single: str | None) -> None:
    path = tmp_path / name
    if made:
        path.mkdir() if made == "directory" else path.touch()
    at = place(path)
    assert (at.single, at.location) == (single, str(path))


def test_a_url_that_cannot_be_used() -> None:
    with pytest.raises(SnapshotError, match="Protocol not known"):
        snapshot.newest("nosuch://bucket")


@pytest.mark.parametrize(
    ("state", "message"),
    [([1, 2], "holds a list: this library did not write it"), ({"a": range(3)}, "cannot be read: ")],
    ids=["no dictionary", "not safe to read"],
)
def test_a_file_of_something_else(tmp_path: Path, state: object, message: str) -> None:
    path = tmp_path / "snapshot.pt"
    torch.save(state, path)
    found = snapshot.available(path)[0]
    with pytest.raises(SnapshotError, match=message):
        snapshot.load(found)


def test_a_snapshot_at_a_url_has_no_path() -> None:
    saved = snapshot.save("memory://bucket/c", 1, {})
    with pytest.raises(ValueError, match="is no file"):
        saved.path  # noqa: B018
    assert snapshot.load(saved) == {}


def test_shards_that_belong_to_no_snapshot_are_removed(tmp_path: Path) -> None:
    at = place(tmp_path)
    for name in ("shards-000000000003-abc", "shards-000000000004-abc", "shards-of-mine"):
        at.storage.make_directory(name)
    files.write(at, 4, {}, {"shards": "abc"})
    catalog.remove_orphans(at)
    assert sorted(at.storage.directories()) == ["shards-000000000004-abc", "shards-of-mine"]
    newest = files.write(at, 5, {})
    catalog.prune(at, newest, 1)
    assert at.storage.directories() == ["shards-of-mine"]


@pytest.mark.torch
@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_at_any_moment_leaves_the_newest_complete_snapshot(tmp_path: Path, kills: int) -> None:
    seed = random.randrange(2**32)
    killer = [sys.executable, str(KILLER), str(tmp_path), str(kills), str(seed)]
    result = subprocess.run(killer, text=True, capture_output=True, check=False, timeout=280)
    assert result.returncode == 0, f"seed {seed}: {result.stderr}"
    assert int(result.stdout) > 0  # some were halfway through a snapshot
