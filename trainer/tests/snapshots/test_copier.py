"""What only an optimizer's step changes is copied beside the training; the step waits for the copy."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from torchrun_trainer import snapshot
from torchrun_trainer.snapshots.saver import Saver
from torchrun_trainer.snapshots.staging import Staging


def steps(directory: Path) -> list[int]:
    return [found.step for found in snapshot.available(directory)]


class Held:
    """Blocks the copying of postponed tensors."""

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
    trained.step()  # there is nothing to wait for
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
    """As with an optimizer that calls no hooks. PyTorch counts a change once it is complete."""
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
