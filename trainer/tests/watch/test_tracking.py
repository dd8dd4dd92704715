"""TensorBoard and Weights & Biases show one run across restarts, and never hold the training up."""

import importlib.machinery
import importlib.util
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from torchrun_trainer import Run
from torchrun_trainer.launch.ranks import Ranks
from torchrun_trainer.snapshots.saver import NoSaver
from torchrun_trainer.snapshots.storage import storage
from torchrun_trainer.stepping.reporter import Reporter
from torchrun_trainer.watch import tracking
from torchrun_trainer.watch.tracking import Tracker, trackers

WORKER = Path(__file__).parent / "tracked_worker.py"
NEVER = -1


def train(directory: Path, total_steps: int, die_at: int, track: str, **environment: str) -> str:
    """Run the script; return its standard error."""
    command = [sys.executable, str(WORKER), str(directory), str(total_steps), str(die_at), track]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}, cwd=directory
    )
    assert result.returncode == (0 if die_at == NEVER else 9), result.stderr
    return result.stderr


def scalars(directory: Path, name: str) -> dict[int, float]:
    """Read what TensorBoard shows; a repeated step is an error."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory))
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars(name)]
    assert len(shown) == len(dict(shown))
    return dict(shown)


@pytest.mark.torch
def test_tensorboard_shows_each_step_once(tmp_path: Path) -> None:
    where = "tensorboard"
    train(tmp_path, 20, 8, "tensorboard")
    assert list(scalars(tmp_path / where, "loss")) == list(range(1, 9))
    assert train(tmp_path, 20, NEVER, f"tensorboard:{tmp_path / where}") == ""
    assert scalars(tmp_path / where, "loss") == {step: 99.0 + step for step in range(1, 21)}
    attempts = dict.fromkeys(range(1, 6), 8.0) | {step: float(NEVER) for step in range(6, 21)}
    assert scalars(tmp_path / where, "attempt") == attempts
    assert scalars(tmp_path / where, "epoch") == {step: (step - 1) // 10 for step in range(1, 21)}
    assert set(scalars(tmp_path / where, "world_size").values()) == {1.0}
    assert min(scalars(tmp_path / where, "samples_per_second").values()) > 0


def history(file: Path) -> dict[int, dict[str, float]]:
    """Read the steps in a file of Weights & Biases: a LevelDB log with a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, part = file.read_bytes(), 7, b""
    steps: dict[int, dict[str, float]] = {}
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:  # no record's header begins in the last bytes of a block
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        part += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or its last part
            record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
            record.ParseFromString(part)
            part = b""
            if record.WhichOneof("record_type") == "history":
                items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                assert items["_step"] not in steps
                steps[items["_step"]] = items
    return steps


@pytest.mark.torch
def test_weights_and_biases_keeps_one_run_offline(tmp_path: Path) -> None:
    offline = {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    train(tmp_path, 20, 8, "wandb:elastic", **offline)
    train(tmp_path, 20, NEVER, "wandb:elastic", **offline)
    files = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"), key=lambda file: file.stat().st_mtime)
    assert len(files) == 2
    assert len({file.name for file in files}) == 1
    note = json.loads((tmp_path / "wandb.json").read_text())
    assert note == {"id": files[0].stem.removeprefix("run-"), "step": 20}
    before, after = map(history, files)
    assert (list(before), list(after)) == (list(range(1, 9)), list(range(9, 21)))
    whole = before | after
    assert {step: values["loss"] for step, values in whole.items()} == {step: 99.0 + step for step in range(1, 21)}
    assert {values["world_size"] for values in whole.values()} == {1}


class Recorder:
    def __init__(self, broken: bool = False, gate: threading.Event | None = None) -> None:
        self.points: list[tuple[int, Mapping[str, float]]] = []
        self.closed = False
        self._broken = broken
        self._gate = gate

    def log(self, points: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        if self._gate:
            self._gate.wait(60)
        if self._broken:
            raise OSError("no space left")
        self.points += points

    def close(self) -> None:
        self.closed = True


def test_a_tracker_sends_what_it_has_before_it_closes() -> None:
    backend = Recorder()
    tracker = Tracker("test", lambda: backend)
    for step in range(100):
        tracker.log(step, {"loss": step})
    tracker.flush(60)
    assert backend.points == [(step, {"loss": step}) for step in range(100)]
    tracker.close(60)
    tracker.log(100, {"loss": 1})
    assert backend.closed
    assert len(backend.points) == 100


def test_a_tracker_without_values_starts_nothing() -> None:
    tracker = Tracker("test", lambda: pytest.fail("made"))
    tracker.flush(60)
    tracker.close(60)


@pytest.mark.parametrize("where", ["make", "log"])
def test_a_backend_that_fails_is_mentioned_once(where: str, caplog: pytest.LogCaptureFixture) -> None:
    def make() -> Recorder:
        if where == "make":
            raise OSError("no space left")
        return Recorder(broken=True)

    tracker = Tracker("test", make)
    for step in range(3):
        tracker.log(step, {"loss": step})
        tracker.flush(60)
    tracker.close(60)
    assert [record.getMessage() for record in caplog.records] == [
        "tracking by test fails, training continues: no space left (logged once)"
    ]


def test_a_backend_that_hangs_holds_nothing_up(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Values beyond a limit are dropped, the oldest first; the run ends, and so would the process."""
    monkeypatch.setattr(tracking, "_CLOSE_SECONDS", 0.0)
    monkeypatch.setattr(tracking, "_MOST_WAITING", 10)
    gate = threading.Event()
    backend = Recorder(gate=gate)
    run = Run("", report_seconds=0.0)
    run._trackers[:] = [Tracker("test", lambda: backend)]
    run._trackers[0].flush = lambda seconds=0.0: None  # type: ignore[method-assign]
    for step in run.steps(50):
        run.report(loss=step)
    assert backend.points == []
    gate.set()
    run._trackers[0].close(60)
    assert [step for step, _ in backend.points][-10:] == list(range(41, 51))
    assert len(backend.points) < 50


@pytest.mark.parametrize(
    ("track", "error", "message"),
    [
        ("comet", ValueError, "track is 'comet'; it must begin with tensorboard or wandb"),
        (["tensorboard", "wandb:x"], ImportError, r"track='wandb:x' needs a package: .*'torchrun-trainer\[wandb\]'"),
    ],
)
@pytest.mark.parametrize("found", [None, importlib.machinery.ModuleSpec("wandb", None)], ids=["none", "a directory"])
def test_what_cannot_be_tracked_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, track: Any, error: type[Exception], message: str, found: Any
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found if name == "wandb" else real(name))
    with pytest.raises(error, match=message):
        Run("", track=track)


def test_only_rank_0_tracks_and_only_single_numbers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    backend = Recorder()
    run = Run("")
    run._trackers[:] = [Tracker("test", lambda: backend)]
    with pytest.raises(ValueError, match="accuracy has 2 values; report one number"):
        run.report(accuracy=torch.ones(2))
    with pytest.raises((TypeError, ValueError)):
        run.report(accuracy="high")  # type: ignore[arg-type]
    for step in run.steps(3):
        if step == 0:
            run.report(loss=torch.tensor(0.5, requires_grad=True), accuracy=torch.tensor([1.0]))
    run._trackers[0].close(60)
    assert backend.points == [
        (1, {"loss": 0.5, "world_size": 1, "accuracy": 1.0}),
        (3, {"loss": 0.5, "world_size": 1}),
    ]
    others = Ranks()
    others.rank = 1
    tracker = Tracker("test", lambda: pytest.fail("made"))
    reporter = Reporter(others, [tracker], report_seconds=1.0)
    reporter.record(None, 0, None, {"accuracy": 1.0})
    reporter.report(3, 3, NoSaver(), None)
    assert tracker._thread.ident is None


@pytest.mark.parametrize(
    ("path", "home"),
    [
        (None, None),
        ("", None),
        ("/a/b", "/a/b"),
        (Path("/a/b"), "/a/b"),
        ("/a/snapshot.pth", "/a"),
        ("snapshot.pt", "."),
        ("/a/model.ckpt", "/a"),
        ("s3://bucket/a/model.bin", "s3://bucket/a"),
        ("s3://bucket/a", "s3://bucket/a"),
        ("s3://bucket/a/b.pt", "s3://bucket/a"),
    ],
)
def test_the_note_lies_beside_the_snapshots(path: str | Path | None, home: str | None) -> None:
    assert tracking._home(path) == home


def test_a_note_may_lie_behind_a_url() -> None:
    home = storage(tracking._home("memory://notes/snapshot.pt") or "")
    assert home.get(tracking._NOTE) is None
    home.put(tracking._NOTE, b"{}")
    assert home.get(tracking._NOTE) == b"{}"


@pytest.mark.parametrize(("job", "expected"), [("none", None), (None, None), ("team/job:1", "team-job-1")])
def test_without_snapshots_the_job_names_the_run(
    monkeypatch: pytest.MonkeyPatch, job: str | None, expected: str | None
) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if job:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", job)
    assert tracking._job_id() == expected


def test_nothing_is_imported_before_there_is_something_to_track() -> None:
    script = "import sys, torchrun_trainer as t; t.Run('', track=['tensorboard', 'wandb']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert {"wandb", "tensorboard", "fsspec"} & set(loaded) == set()


def test_trackers_are_one_or_several() -> None:
    assert [len(trackers(track, None, 0)) for track in ((), "wandb", ["wandb:team/project", "tensorboard"])] == [
        0,
        1,
        2,
    ]
