"""The best step by a metric is saved, and its snapshot is kept."""

from pathlib import Path
from typing import Any

import pytest
import torch

from torchrun_trainer import Run, SnapshotError, snapshot
from torchrun_trainer.snapshots import files
from torchrun_trainer.snapshots.saver import Saver


def steps(directory: Path) -> list[int]:
    return [found.step for found in snapshot.available(directory)]


def test_a_best_that_could_not_be_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    made = Saver(tmp_path, {"model": torch.nn.Linear(1, 1)}, keep_best="accuracy")
    for step, accuracy in ((1, 0.5), (2, 0.9), (3, 0.8), (4, 0.7)):
        made.rate(accuracy=accuracy)
        improved = made.improved()
        with monkeypatch.context() as context:
            if step == 2:
                context.setattr(files, "write", fail)
            made.step_done(step, due=improved, wait=False)
            made.finish()
        assert improved == (step != 4)
    made.close()
    assert [(found.step, found.metric("accuracy")) for found in snapshot.available(tmp_path)] == [(3, 0.8), (1, 0.5)]


def test_the_best_step_is_saved_and_kept_through_restarts(tmp_path: Path) -> None:
    def train(start: int, accuracies: list[float | None]) -> list[int]:
        run = Run(tmp_path, snapshot_every=100, keep=1, keep_best="accuracy", model=torch.nn.Linear(1, 1))
        assert run.step == start
        for step in run.steps(start + len(accuracies)):
            accuracy = accuracies[step - start]
            if accuracy is None:
                run.report(loss=1.0)
            else:
                run.report(loss=1.0, accuracy=torch.tensor(accuracy))
        return steps(tmp_path)

    assert train(0, [0.5, 0.75, None, 0.5, None]) == [5, 2]
    assert train(5, [0.5, 0.625]) == [7, 2]
    assert train(7, [0.875, None]) == [9, 8]


def test_the_lowest_loss_may_be_the_best(tmp_path: Path) -> None:
    run = Run(tmp_path, snapshot_every=100, keep=1, keep_best="-loss", model=torch.nn.Linear(1, 1))
    for step in run.steps(4):
        run.report(loss=torch.tensor([3.0, 1.0, float("nan"), 2.0][step], requires_grad=True))
    assert [(found.step, found.facts) for found in snapshot.available(tmp_path)] == [
        (4, {"loss": "2"}),
        (2, {"loss": "1"}),
    ]
    assert run.snapshot
    assert run.snapshot.step == 4


def test_a_single_file_keeps_one(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match=r"keep_best needs a directory, and .* is a file"):
        Run(tmp_path / "a.pth", keep_best="accuracy", model=torch.nn.Linear(1, 1))
