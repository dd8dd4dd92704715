"""Epochs, batches and micro-batches in one process: where they begin, what they weigh, and what is refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchrun_trainer import GlobalBatches, Run, SnapshotError
from torchrun_trainer.data.loop import Loop
from torchrun_trainer.data.sampling import shares_of

DATA = TensorDataset(torch.arange(10.0).reshape(10, 1))


def make(directory: Path | str = "", micro: int | None = None, **options: Any) -> tuple[Run, DataLoader[Any]]:
    batches = GlobalBatches(10, 4)
    loader = DataLoader(DATA, batch_sampler=batches.sampler(micro))
    return Run(directory, batches=batches, **options), loader


def steps(run: Run, loader: DataLoader[Any], epochs: int, stop_at: int | None = None) -> list[tuple[int, list[int]]]:
    """Go through the epochs; return each with its steps. The process "dies" within the step ``stop_at``."""
    done: list[tuple[int, list[int]]] = []
    for epoch in run.epochs(epochs):
        done.append((epoch, []))
        for (samples,) in run.batches(loader):
            assert len(samples) == 4
            done[-1][1].append(run.step)
            if run.step == stop_at:
                return done
    return done


WHOLE = [(0, [0, 1, 2]), (1, [3, 4]), (2, [5, 6, 7])]


@pytest.mark.parametrize(
    ("every", "stop_at", "expected"),
    [
        # steps in three epochs of 10 samples, in batches of 4: 0-2, 3-4, 5-7
        (2, None, [(2, [])]),  # all steps are done; what follows the batches of the last epoch is repeated
        (2, 1, WHOLE),  # no snapshot yet
        (2, 5, [(1, [4]), (2, [5, 6, 7])]),
        (3, 4, [(0, []), (1, [3, 4]), (2, [5, 6, 7])]),  # the snapshot is older than what follows epoch 0
        (5, 6, [(1, []), (2, [5, 6, 7])]),
        (7, 7, [(2, [7])]),
    ],
)
def test_epochs_go_on_where_the_snapshot_was_taken(
    tmp_path: Path, every: int, stop_at: int | None, expected: list[tuple[int, list[int]]]
) -> None:
    first = steps(*make(tmp_path, snapshot_every=every), 3, stop_at)
    assert first == WHOLE if stop_at is None else len(first) < 4
    assert steps(*make(tmp_path), 3) == expected


def test_total_steps_instead_of_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    run, loader = make(report_seconds=0.0)
    taken = [samples for (samples,) in run.batches(loader, total_steps=5)]
    assert sorted(torch.cat(taken).flatten().tolist()) == sorted([*range(10)] * 2)
    assert run.step == 5
    assert len(capsys.readouterr().out.splitlines()) == 1 + 5
    assert list(run.batches(loader, total_steps=5)) == []


def test_the_weighed_losses_make_up_the_mean_of_the_batch(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Linear(1, 1)
    run, loader = make(micro=3, report_seconds=0.0, model=model)
    for step in run.accumulate(loader, total_steps=2):
        model.zero_grad()
        sizes, everything = [], []
        for (samples,) in step:
            run.weigh(model(samples).square().mean()).backward()  # type: ignore[no-untyped-call]
            sizes.append(len(samples))
            everything.append(samples)
        assert sizes == [2, 2]
        assert len(step) == 2
        gradients = [parameter.grad for parameter in model.parameters()]
        wanted = torch.autograd.grad(model(torch.cat(everything)).square().mean(), list(model.parameters()))
        for gradient, expected in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(gradient, expected)
    output = capsys.readouterr().out
    assert "step=2/2 epoch=0 loss=" in output
    assert "samples/s=" in output


def test_a_stream_is_gone_through_alike() -> None:
    batches = GlobalBatches(10, 4)
    run = Run("", batches=batches)
    loader = DataLoader(batches.stream(range(10), 2), batch_size=None)
    taken = [[part.tolist() for part in step] for _epoch in run.epochs(1) for step in run.accumulate(loader)]
    assert taken == [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9], [0, 1]]]


def test_stopping_early_ends_the_steps(capsys: pytest.CaptureFixture[str]) -> None:
    run, loader = make()
    for epoch in run.epochs(9):
        for _samples in run.batches(loader):
            pass
        if epoch == 1:
            break
    assert run.step == 5
    assert len(list(run.batches(loader, total_steps=7))) == 2
    starts = [line.split()[-2] for line in capsys.readouterr().out.splitlines() if "event=start" in line]
    assert starts == ["at=0", "at=5"]


class Synchronized(nn.Linear):
    """Records whether its gradients are synchronized at each backward pass, by the methods of DDP or FSDP2."""

    def __init__(self, kind: str) -> None:
        super().__init__(1, 1)
        self.synchronize = True
        self.seen: list[bool] = []
        self.weight.register_hook(lambda _: self.seen.append(self.synchronize))  # type: ignore[no-untyped-call]
        setattr(self, *{"ddp": ("no_sync", self._pause), "fsdp": ("set_requires_gradient_sync", self._set)}[kind])

    def _set(self, synchronize: bool) -> None:
        self.synchronize = synchronize

    @contextmanager
    def _pause(self) -> Iterator[None]:
        self.synchronize = False
        yield
        self.synchronize = True


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize(("micro", "seen"), [(None, [True]), (2, [False, True]), (1, [False] * 3 + [True])])
def test_only_the_last_micro_batch_synchronizes(kind: str, micro: int | None, seen: list[bool]) -> None:
    model = Synchronized(kind)
    run, loader = make(micro=micro, model=model)
    for step in run.accumulate(loader, total_steps=2):
        for (samples,) in step:
            run.weigh(model(samples).mean()).backward()  # type: ignore[no-untyped-call]
    assert model.seen == seen * 2
    assert model.synchronize


def leave_epoch(run: Run, loader: DataLoader[Any]) -> None:
    for _epoch in run.epochs(2):
        for _batch in run.batches(loader):
            break


def leave_step(run: Run, loader: DataLoader[Any]) -> None:
    for step in run.accumulate(loader, total_steps=2):
        next(iter(step))


def epochs_within(run: Run, loader: DataLoader[Any]) -> None:
    for _epoch in run.epochs(2):
        list(run.accumulate(loader, total_steps=3))


def epochs_twice(run: Run, _loader: DataLoader[Any]) -> None:
    for _epoch in run.epochs(2):
        next(run.epochs(2))


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (leave_epoch, RuntimeError, "epoch 0 was left at step 0, before its last"),
        (leave_step, RuntimeError, "step 0 was left after 0 of 2 micro-batches"),
        (epochs_within, ValueError, "give total_steps outside run.epochs"),
        (epochs_twice, ValueError, "this run is already going through its epochs"),
        (lambda run, loader: list(run.accumulate(loader)), ValueError, "give total_steps outside run.epochs"),
        (lambda run, loader: list(run.batches(loader, 1)), ValueError, "use run.accumulate"),
        (lambda run, _: run.weigh(torch.ones(())), RuntimeError, "weigh.. is for the body of a loop over run.batches"),
        (
            lambda run, _: list(run.batches(DataLoader(DATA, batch_sampler=GlobalBatches(10, 4).sampler()), 1)),
            ValueError,
            "the loader's GlobalBatches must be in the state",
        ),
        (lambda _, __: next(Run("").epochs(1)), ValueError, "needs GlobalBatches in the state, once"),
    ],
)
def test_what_would_not_be_exact_is_refused(act: Any, error: type[Exception], message: str) -> None:
    run, loader = make(micro=2)
    if act is leave_epoch:
        run, loader = make()
    with pytest.raises(error, match=message):
        act(run, loader)


def test_fsdp_needs_as_many_micro_batches_on_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    run, loader = make(micro=1, model=Synchronized("fsdp"))
    shares = shares_of(loader)
    monkeypatch.setattr(shares, "world_size", 3)
    monkeypatch.setattr(shares, "count", 2)
    with pytest.raises(ValueError, match="FSDP needs the same number of micro-batches on all ranks"):
        next(run.accumulate(loader, total_steps=1))
    monkeypatch.setattr(run, "_loop", Loop(run._stepper, [shares.batches]))
    next(run.accumulate(loader, total_steps=1))


def test_other_data_than_the_snapshots_are_an_error(tmp_path: Path) -> None:
    steps(*make(tmp_path), 1)
    with pytest.raises((SnapshotError, ValueError), match="the snapshot is of other batches: samples was 10 and is 11"):
        Run(tmp_path, batches=GlobalBatches(11, 4))
    run = Run(tmp_path, batches=(batches := GlobalBatches(10, 5, accept=["batch_size"])))
    assert (run.step, batches.position(3), batches.steps(2)) == (3, 12, 5)
