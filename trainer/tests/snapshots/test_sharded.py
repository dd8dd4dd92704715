"""Sharded states continue with any number of ranks, or unsharded; a damaged shard means the snapshot before."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from torchrun_trainer import SnapshotError, snapshot
from torchrun_trainer.snapshots.place import place

pytestmark = [pytest.mark.torch, pytest.mark.timeout(900)]  # the first test waits for 14 phases

WORKER = Path(__file__).parent / "sharded_worker.py"


class Phases:
    """The output of the worker in each of its phases."""

    def __init__(self, directory: Path, *phases: str) -> None:
        self.directory = directory
        result = subprocess.run(
            [sys.executable, str(WORKER), str(directory), *phases],
            text=True,
            capture_output=True,
            check=False,
            timeout=840,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert result.returncode == 0, result.stderr
        self.lines: list[dict[str, Any]] = [
            json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")
        ]
        self.errors = re.split(r"PHASE \d+\n", result.stderr)[1:]

    def said(self, phase: int) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["phase"] == str(phase) and "rank" in line]

    def kept(self, phase: int) -> dict[str, str | None]:
        (line,) = (line for line in self.lines if line["phase"] == str(phase) and "kept" in line)
        kept: dict[str, str | None] = line["kept"]
        return kept


@pytest.fixture(scope="module")
def phases(tmp_path_factory: pytest.TempPathFactory) -> Phases:
    return Phases(
        tmp_path_factory.mktemp("sharded"),
        "plain:1:9:undisturbed",
        "sharded:2:3:elastic",
        "sharded:3:5:elastic",
        "sharded:1:7:elastic",
        "plain:1:8:elastic",
        "sharded:2:9:elastic",
        "wide:2:10:elastic",
        "flip:0:0:elastic",
        "sharded:2:10:elastic",
        "sharded:2:2:snapshot.pth",
        "broken:2:5:broken",
        "mixed:2:4:mixed",
        "mixed:2:5:mixed",
        "odd:2:5:odd",
    )


def test_training_goes_on_with_any_number_of_ranks(phases: Phases) -> None:
    (whole,) = phases.said(0)
    parts = [phases.said(number)[0] for number in range(1, 6)]
    assert [part["began"] for part in parts] == [0, 3, 5, 7, 8]
    assert [part["seen"] for part in parts] == [3, 5, 7, 8, 9]
    assert parts[-1]["sums"] == pytest.approx(whole["sums"], rel=1e-5)
    kept = phases.kept(5)
    assert list(kept) == ["9", "8"]
    assert kept["8"] is None  # the unsharded one


def test_what_does_not_fit_is_said_on_every_rank(phases: Phases) -> None:
    said = phases.said(6)
    assert sorted(line["rank"] for line in said) == [0, 1]
    for line in said:
        assert "does not fit 'model': model/0.weight has the shape [7, 5], but here [8, 5]" in line["error"]
    assert phases.kept(6) == phases.kept(5)


def test_a_damaged_shard_means_the_snapshot_before(phases: Phases) -> None:
    directory, damaged = phases.directory / "elastic", phases.kept(6)["9"]
    (part,) = phases.said(8)
    assert part["began"] == 8
    assert re.search(rf"snapshot .* is damaged: the checksum of {damaged}/__1_0.distcp differs", phases.errors[8])
    assert len(list(directory.glob("snapshot-000000000009-*.corrupt"))) == 1
    assert sorted(path.name for path in directory.iterdir() if path.is_dir()) == sorted(
        [str(damaged), str(phases.kept(8)["10"])]
    )

    newest, before = snapshot.available(directory)
    assert newest.shards
    (directory / newest.shards / ".metadata").unlink()
    assert snapshot.newest(directory) == before  # a single process checks everything
    before.path.write_bytes(b"")
    with pytest.raises(SnapshotError, match="all snapshots are damaged"):
        snapshot.newest(directory)


def test_a_single_file_takes_no_shards(phases: Phases) -> None:
    assert sorted(line["rank"] for line in phases.said(9)) == [0, 1]
    assert "sharded state needs a directory, and" in phases.said(9)[0]["error"]
    assert phases.kept(9) == {}


def test_a_rank_that_cannot_write_costs_one_snapshot(phases: Phases) -> None:
    assert phases.said(10)[0]["began"] == 0
    (warning,) = re.findall(r"a snapshot could not be written, there is none yet: .*", phases.errors[10])
    assert warning.endswith("OSError: rank 1: OSError: [Errno 28] No space left on device")
    kept = phases.kept(10)
    assert list(kept) == ["5", "4"]
    directory = phases.directory / "broken"
    assert sorted(path.name for path in directory.iterdir() if path.is_dir()) == sorted(map(str, kept.values()))


def test_what_is_not_sharded_is_copied_before_all_ranks_write(phases: Phases) -> None:
    """A rank that found out later that its copy is useless would keep the others waiting forever."""
    assert [phases.said(number)[0]["began"] for number in (11, 12)] == [0, 4]
    assert list(phases.kept(11)) == ["4", "2"]


def test_a_state_that_one_rank_cannot_save_costs_all_one_snapshot(phases: Phases) -> None:
    assert phases.said(13)[0]["seen"] == 5
    warnings = re.findall(r"a snapshot could not be written, there is none yet: (.*)", phases.errors[13])
    assert sorted(warning.partition(",")[0] for warning in warnings) == [
        "SnapshotError: the state of another rank cannot be saved",
        "UnsupportedError: extra/odd is a builtins.object",
    ]
    assert list(phases.kept(13)) == ["5", "4"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_shards_at_a_url(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDED_AT", f"{bucket}/sharded")
    phases = Phases(tmp_path, "plain:1:6:whole", "sharded:2:3:a", "sharded:3:5:a", "flip:0:0:a", "sharded:1:6:a")
    assert [phases.said(number)[0]["began"] for number in (1, 2, 4)] == [0, 3, 4]
    assert phases.said(4)[0]["sums"] == pytest.approx(phases.said(0)[0]["sums"], rel=1e-5)
    directories = place(f"{os.environ['SHARDED_AT']}/a").storage.directories()
    assert sorted(directories) == sorted([str(phases.kept(2)["5"]), *map(str, phases.kept(4).values())])
