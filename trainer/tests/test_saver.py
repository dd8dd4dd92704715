"""Snapshots are taken beside the training; what is wrong with them is said, and nothing overwritten."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from torchrun_trainer import Run, SnapshotError, snapshot
from torchrun_trainer.saver import Saver
from torchrun_trainer.staging import Staging


class Values:
    """A state of the user's own."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    def state_dict(self) -> dict[str, Any]:
        return self.values

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.values = state_dict


class Gate:
    """Holds back whoever writes until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        self._write = snapshot.write
        monkeypatch.setattr(snapshot, "write", self._wait)

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


class Held:
    """Holds back the copying of what is left for later."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        complete = Staging.complete

        def wait(staging: Staging) -> None:
            assert self.open.wait(60)
            complete(staging)

        monkeypatch.setattr(Staging, "complete", wait)


class Trained:
    """A weight that is large enough for its momentum to be copied beside the training."""

    def __init__(self) -> None:
        self.weight = torch.nn.Parameter(torch.zeros(1 << 18))
        self.opt = torch.optim.SGD([self.weight], lr=1.0, momentum=0.5)
        self.step()

    def step(self) -> None:
        self.weight.grad = torch.ones_like(self.weight)
        self.opt.step()

    @property
    def momentum(self) -> torch.Tensor:
        momentum: torch.Tensor = self.opt.state[self.weight]["momentum_buffer"]
        return momentum


def momentum(found: snapshot.Snapshot) -> float:
    return float(snapshot.load(found)["state"]["opt"]["state"][0]["momentum_buffer"].unique())


def test_the_step_of_an_optimizer_waits_until_its_state_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = Trained()
    saver = Saver(tmp_path, {"opt": trained.opt})
    held = Held(monkeypatch)
    saver.save(1, wait=False)
    blocked = saver.blocked or 0.0
    trainer = threading.Thread(target=trained.step)
    trainer.start()
    trainer.join(0.05)
    assert (trainer.is_alive(), trained.weight[0].item()) == (True, -1.0)
    held.open.set()
    trainer.join(60)
    assert trained.weight[0].item() == -2.5
    assert saver.blocked is not None
    assert saver.blocked > blocked
    saver.finish()
    trained.step()  # nothing is left to wait for
    saver.save(2, wait=True)
    saver.close()
    assert [momentum(found) for found in snapshot.available(tmp_path)] == [1.75, 1.0]


def test_a_state_that_changes_without_a_step_is_not_published_and_copied_at_once_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trained = Trained()
    saver = Saver(tmp_path, {"opt": trained.opt})
    for step in (1, 2):
        held = Held(monkeypatch)
        saver.save(step, wait=False)
        trained.momentum.add_(step)
        held.open.set()
        saver.finish()
    saver.close()
    assert steps(tmp_path) == [2]
    assert momentum(snapshot.available(tmp_path)[0]) == 2.0
    said = "a snapshot could not be written, there is none yet: ChangedError: opt/state/0/momentum_buffer was changed"
    assert [record.getMessage() for record in caplog.records] == [f"{said} while it was copied"]


def test_a_change_that_ends_after_the_copying_is_noticed_at_the_end_of_the_step(tmp_path: Path) -> None:
    """As with an optimizer that calls no hooks. PyTorch counts a change when it has been made."""
    trained = Trained()
    for step in range(1, 9):
        saver = Saver(tmp_path, {"opt": trained.opt})
        saver.save(step, wait=False)
        trained.momentum.add_(1)
        saver.step_done(step, due=False, wait=False)
        saver.close()
    assert steps(tmp_path) == []


def test_an_optimizer_that_tells_nobody_of_its_steps_is_copied_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrapper(torch.optim.Optimizer):
        def __init__(self) -> None:
            self.buffer = torch.zeros(1 << 18)

        def state_dict(self) -> dict[str, Any]:
            return {"buffer": self.buffer}

    wrapper = Wrapper()
    saver = Saver(tmp_path, {"opt": wrapper})
    held = Held(monkeypatch)
    saver.save(1, wait=False)
    wrapper.buffer += 1
    held.open.set()
    saver.close()
    assert snapshot.load(snapshot.available(tmp_path)[0])["state"]["opt"]["buffer"].max().item() == 0.0


def test_without_another_thread_the_training_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    trained = Trained()
    saver = Saver(tmp_path, {"opt": trained.opt})
    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", refuse)
        saver.save(1, wait=False)
        assert steps(tmp_path) == [1]
    trained.step()
    saver.save(2, wait=False)
    saver.close()
    assert [momentum(found) for found in snapshot.available(tmp_path)] == [1.5, 1.0]
    assert [record.getMessage() for record in caplog.records] == [
        "training waits for this snapshot: can't start new thread"
    ]


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
        "a snapshot could not be written, that of step 1 is the newest: UnsupportedError: values/odd is a builtins.set"
    )
    with pytest.raises(SnapshotError, match=r"the snapshot of step 3 could not be written: values/odd is a .*set"):
        made.save(3, wait=True)
    del values.values["odd"]
    made.save(4, wait=True)
    assert steps(tmp_path) == [4, 1]


def test_a_best_that_could_not_be_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Saver(tmp_path, {"values": Values(count=0)}, keep_best="accuracy")
    for step, accuracy in ((1, 0.5), (2, 0.9), (3, 0.8), (4, 0.7)):
        made.rate(accuracy=accuracy)
        improved = made.improved()
        with monkeypatch.context() as context:
            if step == 2:
                failing(context, OSError(28, "No space left on device"))
            made.step_done(step, due=improved, wait=False)
            made.finish()
        assert improved == (step != 4)
    made.close()
    assert [(found.step, found.metric("accuracy")) for found in snapshot.available(tmp_path)] == [(3, 0.8), (1, 0.5)]


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(snapshot, "write", fail)


def test_a_snapshot_that_fails_is_a_warning_and_the_third_in_a_row_an_error(
    saver: tuple[Saver, Values],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made, _ = saver
    for step, newest in ((1, "there is none yet"), (3, "that of step 2 is the newest"), (4, "that of step 2 is")):
        with monkeypatch.context() as context:
            failing(context, OSError(28, "No space left on device"))
            made.save(step, wait=False)
            made.finish()
        made.look()
        message = caplog.records.pop().getMessage()
        assert message.startswith(f"a snapshot could not be written, {newest}")
        assert "OSError: [Errno 28] No space left on device" in message
        if step == 1:
            made.save(2, wait=False)  # begins the count anew
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
    other = Saver(tmp_path, {"values": Values()})  # in one process the later one has the place
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


def linear(width: int) -> dict[str, Any]:
    return {"step": 3, "state": {"model": torch.nn.Linear(width, 1).state_dict()}}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"MODEL_STATE": {}, "EPOCHS_RUN": 3}, r"was not written by Run: it holds \['EPOCHS_RUN', 'MODEL_STATE'\]"),
        ({"format": "mine", "state": {}, "step": 1}, "was not written by Run"),
        ({"state": {"model": {}}}, "was not written by Run"),
        ({**linear(2), "format": 3}, "has format 3, this library knows those up to 2: install the torchrun-trainer"),
        ({"step": 1, "state": {"net": {}}}, r"holds \['net'\], but this run has \['model'\]"),
        (linear(5), "does not fit 'model': .*size mismatch for weight"),
    ],
    ids=["foreign", "foreign format", "no step", "newer", "other keys", "other shapes"],
)
@pytest.mark.parametrize("name", ["", "snapshot.pth"])
def test_a_snapshot_of_something_else_is_an_error_and_stays(
    tmp_path: Path, name: str, document: dict[str, Any], message: str
) -> None:
    saved = snapshot.save(tmp_path / name, 3, document)
    before = saved.path.read_bytes()
    with pytest.raises(SnapshotError, match=f"(?s){message}"):
        Run(tmp_path / name, model=torch.nn.Linear(2, 1))
    assert [path.name for path in tmp_path.glob("[!.]*")] == [saved.path.name]
    assert saved.path.read_bytes() == before


def test_a_snapshot_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    document = linear(2)
    snapshot.save(tmp_path, 3, document)
    model = torch.nn.Linear(2, 1)
    assert Run(tmp_path, model=model).step == 3
    assert model.weight.equal(document["state"]["model"]["weight"])


@pytest.mark.parametrize("name", ["", "snapshot.pth"])
def test_random_numbers_and_every_kind_of_state_go_on(tmp_path: Path, name: str) -> None:
    def train(total: int) -> list[float]:
        model = torch.nn.Linear(2, 1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=1)
        mine = Values(seen=[0])
        run = Run(tmp_path / name, model=model, optimizer=optimizer, scheduler=scheduler, scaler=scaler, mine=mine)
        torch.rand(5)  # what comes between does not matter
        drawn = []
        for step in run.steps(total):
            noise = torch.rand(3, 2)
            drawn.append(noise.sum().item() + random.random())
            scaler.scale(model(noise).square().sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            scheduler.step()
            mine.values["seen"].append(step)
        return [*drawn, *mine.values["seen"], scaler.get_scale(), scheduler.get_last_lr()[0], model.weight.sum().item()]

    torch.manual_seed(0)
    random.seed(0)
    whole = train(6)
    for path in tmp_path.iterdir():
        path.unlink()
    torch.manual_seed(0)
    random.seed(0)
    first = train(3)
    torch.manual_seed(99)
    assert [*first[:3], *train(6)] == whole


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


def test_the_line_of_progress_says_how_long_training_was_kept_waiting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(Run(tmp_path, model=torch.nn.Linear(1, 1)).steps(1)) == [0]
    assert " snapshot=1 blocked=0." in capsys.readouterr().out


@pytest.mark.parametrize("place", ["directory", "single file", "memory://bucket/{}"])
def test_an_ended_run_leaves_snapshots_only(tmp_path: Path, place: str) -> None:
    location = {"directory": str(tmp_path), "single file": f"{tmp_path}/a.pt"}.get(place, place.format(tmp_path.name))
    assert list(Run(location, snapshot_every=1, model=torch.nn.Linear(1, 1)).steps(3)) == [0, 1, 2]
    assert Run(location, model=torch.nn.Linear(1, 1)).step == 3
    at = snapshot.place(location)
    names = [name for name in at.storage.files() if not name.startswith(".")]
    assert len(names) == (1 if place == "single file" else 2)


def test_shards_that_belong_to_no_snapshot_are_removed(tmp_path: Path) -> None:
    at = snapshot.place(tmp_path)
    for name in ("shards-000000000003-abc", "shards-000000000004-abc", "shards-of-mine"):
        at.storage.make_directory(name)
    snapshot.write(at, 4, {}, {"shards": "abc"})
    snapshot.clean(at)
    assert sorted(at.storage.directories()) == ["shards-000000000004-abc", "shards-of-mine"]
    newest = snapshot.write(at, 5, {})
    snapshot.prune(at, newest, 1)
    assert at.storage.directories() == ["shards-of-mine"]
