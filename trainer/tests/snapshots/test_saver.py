"""Snapshots are written beside the training; a failure is reported, and no snapshot is overwritten by a bad one."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from torchrun_trainer import Run, SnapshotError, snapshot
from torchrun_trainer.snapshots import files
from torchrun_trainer.snapshots.saver import Saver


class Values:
    """A state of the user's own."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    def state_dict(self) -> dict[str, Any]:
        return self.values

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.values = state_dict


class Gate:
    """Blocks whoever writes until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        self._write = files.write
        monkeypatch.setattr(files, "write", self._wait)

    def _wait(self, *arguments: Any) -> snapshot.Snapshot:
        self.reached.set()
        assert self.open.wait(60)
        return self._write(*arguments)


def steps(directory: Path) -> list[int]:
    return [found.step for found in snapshot.available(directory)]


@pytest.fixture
def saver(tmp_path: Path) -> Iterator[tuple[Saver, Values]]:
    values = Values(count=0, weights=torch.zeros(3))
    made = Saver(tmp_path, {"values": values})
    yield made, values
    made.close()


def test_training_goes_on_while_a_snapshot_is_written(
    saver: tuple[Saver, Values], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, values = saver
    gate = Gate(monkeypatch)
    values.values["weights"] += 1
    made.save(1, wait=False)
    assert made.blocked is not None
    assert gate.reached.wait(60)
    values.values["weights"] += 1  # the next step
    assert made.busy()
    made.look()
    assert (made.newest, steps(tmp_path)) == (None, [])
    gate.open.set()
    made.finish()
    assert (steps(tmp_path), made.busy()) == ([1], False)
    assert made.newest == snapshot.newest(tmp_path)
    assert made.newest
    assert snapshot.load(made.newest)["state"]["values"]["weights"].tolist() == [1, 1, 1]
    assert torch.load(made.newest.path, weights_only=True)["step"] == 1


def test_the_next_snapshot_waits_for_the_one_on_its_way(
    saver: tuple[Saver, Values], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, values = saver
    gate = Gate(monkeypatch)
    made.save(1, wait=False)
    assert gate.reached.wait(60)
    threading.Timer(0.05, gate.open.set).start()
    values.values["weights"] += 1
    made.save(2, wait=True)
    assert steps(tmp_path) == [2, 1]
    contents = [snapshot.load(found)["state"]["values"]["weights"][0].item() for found in snapshot.available(tmp_path)]
    assert contents == [1, 0]


def test_a_state_that_cannot_be_saved_any_more_is_a_snapshot_that_fails(
    saver: tuple[Saver, Values], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made, values = saver
    made.save(1, wait=True)
    values.values["odd"] = {1, object()}
    made.save(2, wait=False)
    made.step_done(2, due=False, wait=False)
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "a snapshot could not be written, the newest is that of step 1: UnsupportedError: values/odd is a builtins.set"
    )
    with pytest.raises(SnapshotError, match=r"the snapshot of step 3 could not be written: values/odd is a .*set"):
        made.save(3, wait=True)
    del values.values["odd"]
    made.save(4, wait=True)
    assert steps(tmp_path) == [4, 1]


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(files, "write", fail)


def test_a_snapshot_that_fails_is_a_warning_and_the_third_in_a_row_an_error(
    saver: tuple[Saver, Values],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made, _ = saver
    for step, newest in ((1, "there is none yet"), (3, "the newest is that of step 2"), (4, "the newest is that of")):
        with monkeypatch.context() as context:
            failing(context, OSError(28, "No space left on device"))
            made.save(step, wait=False)
            made.finish()
        made.look()
        message = caplog.records.pop().getMessage()
        assert message.startswith(f"a snapshot could not be written, {newest}")
        assert "OSError: [Errno 28] No space left on device" in message
        if step == 1:
            made.save(2, wait=False)  # resets the count
            made.finish()
    failing(monkeypatch, OSError(28, "No space left on device"))
    made.save(5, wait=False)
    made.finish()
    with pytest.raises(SnapshotError, match=r"3 snapshots in a row could not be written: .*No space left on device"):
        made.look()
    assert steps(tmp_path) == [2]


def test_a_snapshot_that_fails_after_the_loop_was_left_is_a_warning(
    saver: tuple[Saver, Values], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing(monkeypatch, OSError(28, "No space left on device"))
    saver[0].save(9, wait=False)
    saver[0].close()
    assert [record.getMessage() for record in caplog.records] == [
        "a snapshot could not be written, there is none yet: OSError: [Errno 28] No space left on device"
    ]


def test_the_last_snapshot_that_fails_is_an_error(saver: tuple[Saver, Values], monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, OSError(28, "No space left on device"))
    with pytest.raises(SnapshotError, match=r"snapshot of step 9 could not be written: .*No space left on device"):
        saver[0].save(9, wait=True)


def test_a_place_that_was_taken_over_ends_the_training_at_once(saver: tuple[Saver, Values], tmp_path: Path) -> None:
    made, _ = saver
    other = Saver(tmp_path, {"values": Values()})  # in one process the later one owns the place
    made.save(1, wait=False)
    made.finish()
    with pytest.raises(SnapshotError, match=r"was taken over by another run .*: this process must not write there"):
        made.look()
    assert steps(tmp_path) == []
    other.close()


@pytest.mark.parametrize("extra", [lambda: None, object(), threading.Lock()])
def test_a_state_that_cannot_be_saved_is_said_at_the_start(tmp_path: Path, extra: object) -> None:
    with pytest.raises(SnapshotError, match=r"^mine/extra is a .*, which cannot be saved"):
        Saver(tmp_path / "new", {"good": Values(), "mine": Values(extra=extra)})
    assert not (tmp_path / "new").exists()


def test_the_line_of_progress_says_how_long_training_was_kept_waiting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(Run(tmp_path, model=torch.nn.Linear(1, 1)).steps(1)) == [0]
    assert " snapshot=1 blocked=0." in capsys.readouterr().out
