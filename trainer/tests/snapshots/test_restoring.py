"""A snapshot is restored if it fits; a snapshot of something else is an error, and stays."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from torchrun_trainer import Run, SnapshotError, snapshot
from torchrun_trainer.snapshots.place import place


def linear(width: int) -> dict[str, Any]:
    return {"step": 3, "state": {"model": torch.nn.Linear(width, 1).state_dict()}}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"MODEL_STATE": {}, "EPOCHS_RUN": 3}, r"was not written by Run: it holds \['EPOCHS_RUN', 'MODEL_STATE'\]"),
        ({"format": "mine", "state": {}, "step": 1}, "was not written by Run"),
        ({"state": {"model": {}}}, "was not written by Run"),
        ({**linear(2), "format": 3}, "has format 3, this library knows formats up to 2: install the torchrun-trainer"),
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


class Counter:
    """A state of the user's own."""

    def __init__(self) -> None:
        self.seen = [0]

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen = state_dict["seen"]


@pytest.mark.parametrize("name", ["", "snapshot.pth"])
def test_random_numbers_and_every_kind_of_state_go_on(tmp_path: Path, name: str) -> None:
    def train(total: int) -> list[float]:
        model = torch.nn.Linear(2, 1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=1)
        mine = Counter()
        run = Run(tmp_path / name, model=model, optimizer=optimizer, scheduler=scheduler, scaler=scaler, mine=mine)
        torch.rand(5)  # numbers drawn before the steps do not matter
        drawn = []
        for step in run.steps(total):
            noise = torch.rand(3, 2)
            drawn.append(noise.sum().item() + random.random())
            scaler.scale(model(noise).square().sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            scheduler.step()
            mine.seen.append(step)
        rate = float(scheduler.get_last_lr()[0])
        return [*drawn, *mine.seen, scaler.get_scale(), rate, model.weight.sum().item()]

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


@pytest.mark.parametrize("kind", ["directory", "single file", "memory://bucket/{}"])
def test_an_ended_run_leaves_snapshots_only(tmp_path: Path, kind: str) -> None:
    location = {"directory": str(tmp_path), "single file": f"{tmp_path}/a.pt"}.get(kind, kind.format(tmp_path.name))
    assert list(Run(location, snapshot_every=1, model=torch.nn.Linear(1, 1)).steps(3)) == [0, 1, 2]
    assert Run(location, model=torch.nn.Linear(1, 1)).step == 3
    at = place(location)
    names = [name for name in at.storage.files() if not name.startswith(".")]
    assert len(names) == (1 if kind == "single file" else 2)
