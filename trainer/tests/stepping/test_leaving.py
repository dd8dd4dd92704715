"""Leaving, in this process: real workers die of SIGTERM, so tests cannot watch this from outside."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from torchrun_trainer import Run, run
from torchrun_trainer.frameworks.driven import Driven
from torchrun_trainer.launch import ranks
from torchrun_trainer.launch.ranks import Ranks
from torchrun_trainer.stepping.stepper import Agreement
from torchrun_trainer.watch import termination


@pytest.fixture(autouse=True)
def own_sigterm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget deferred signals: this process must not die of them."""
    monkeypatch.delenv("TORCHRUN_SNAPSHOT_PATH", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    yield
    termination._deferred.clear()
    assert signal.getsignal(signal.SIGTERM) is before
    assert termination._active == []


def events(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return re.findall("event=.*", capsys.readouterr().out)


def test_a_run_leaves_at_the_end_of_the_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path, model=torch.nn.Linear(1, 1))

    def train() -> None:
        for step in run.steps(10):
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as left:
        train()
    assert left.value.code == 143
    assert run.step == 4
    assert termination._deferred.is_set()
    assert events(capsys) == ["event=start at=0 world=1", "event=drain at=4 snapshot=4"]


def test_a_rank_whose_own_signal_does_not_come_leaves_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    train = Run(drain_seconds=0.1)

    def reach(proposal: Agreement, _: Ranks) -> Agreement:
        return proposal._replace(stop=train.step == 2)

    monkeypatch.setattr(Agreement, "reach", reach)
    with pytest.raises(SystemExit):
        list(train.steps(10))
    assert train.step == 2
    assert caplog.messages == ["another rank received SIGTERM 0 s ago, this one did not; leaving"]


def test_what_was_deferred_takes_effect_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    termination._die()
    assert sent == []
    termination._deferred.set()
    termination._die()
    assert sent == [(os.getpid(), signal.SIGTERM)]
    with termination.Termination():
        termination._die()  # as after an error in the loop's body
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert len(sent) == 2


def test_a_signal_after_the_last_agreement_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    kill = os.kill
    with termination.Termination() as terminated:
        kill(os.getpid(), signal.SIGTERM)
        assert terminated.wait(10)
        monkeypatch.setattr(os, "kill", lambda _, number: sent.append(number))
    assert sent == [signal.SIGTERM]


def test_a_step_that_does_not_end_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    class ExitedError(Exception):
        pass

    def leave(code: int) -> None:
        raise ExitedError(code)

    monkeypatch.setattr(os, "_exit", leave)
    clock = iter([3.0, 3.1, 9.0, 9.1, 9.2])
    waiting = termination.Termination()
    waiting._began, waiting._slowest = 1.0, 2.0
    monkeypatch.setattr("torchrun_trainer.watch.termination.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("torchrun_trainer.watch.termination.time.sleep", lambda _: None)
    with pytest.raises(ExitedError, match="143"):
        waiting._end_in_time(0.0)  # at 1 + 2 + 3 * 2 s
    assert next(clock) == 9.2
    waiting._closing = True
    waiting._end_in_time(0.0)


def test_a_loop_of_somebody_else_saves_before_it_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    run = Driven()
    run.begin(5, 20)
    assert not run.advance()
    os.kill(os.getpid(), signal.SIGTERM)
    assert run.advance()
    (draining,) = termination._active
    before = draining._saving
    run.saved(Path("/nowhere/step-7"))
    with pytest.raises(SystemExit) as left:
        run.leave()
    assert left.value.code == 143
    assert (before, draining._saving) == (True, False)
    run.close()
    assert events(capsys) == ["event=start at=5 world=1", "event=drain at=7 snapshot=7"]


def test_a_stop_at_the_last_step_still_saves_before_it_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    run = Driven()
    run.begin(5, 6)
    os.kill(os.getpid(), signal.SIGTERM)
    assert run.advance()
    run.saved(Path("/nowhere/step-6"))
    with pytest.raises(SystemExit):
        run.leave()
    run.close()
    assert events(capsys) == ["event=start at=5 world=1", "event=drain at=6 snapshot=6"]


def test_a_loop_of_somebody_else_may_end_early_or_begin_again(capsys: pytest.CaptureFixture[str]) -> None:
    run = Driven()
    run.leave()  # not asked to
    run.begin(0, 20)
    run.begin(3, 4)
    assert not run.advance()
    assert not run.advance()
    run.close()
    assert events(capsys) == ["event=start at=0 world=1", "event=start at=3 world=1"]


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="snapshot_every is 0; it must be at least 1"):
        Run(snapshot_every=0)


def test_agreements_travel_on_the_gpu_where_there_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 3)
    for backends, device in (("cuda:nccl", "cuda:3"), ("cpu:gloo,cuda:nccl", "cpu")):
        monkeypatch.setattr("torch.distributed.get_backend_config", lambda backends=backends: backends)
        assert ranks.collective_device() == torch.device(device)


def test_a_distributed_model_is_looked_through() -> None:
    inner = torch.nn.Linear(1, 1)
    wrapper = DistributedDataParallel.__new__(DistributedDataParallel)
    torch.nn.Module.__init__(wrapper)
    wrapper.module = inner
    assert run._plain(wrapper) is inner
    assert run._plain(inner) is inner
