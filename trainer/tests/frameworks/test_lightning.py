"""The Lightning callback in one process, and the numbers that a Trainer needs under torchrun."""

import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from torchrun_trainer import LaunchError

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning causes many warnings itself

pl = pytest.importorskip("lightning.pytorch")
adapter = pytest.importorskip("torchrun_trainer.lightning")
internals = pytest.importorskip("torchrun_trainer.frameworks.lightning")

VARIABLES = (
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_WORLD_SIZE",
    "RANK",
    "LOCAL_RANK",
    "TORCHRUN_SNAPSHOT_PATH",
    "NPROC_PER_NODE",
    "NNODES",
)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def launched(monkeypatch: pytest.MonkeyPatch, world: int, local: int, nodes: int) -> None:
    values = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": local, "GROUP_WORLD_SIZE": nodes}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(
    ("environment", "arguments"),
    [(None, {"devices": 1, "num_nodes": 1}), ((6, 2, 3), {"devices": 2, "num_nodes": 3})],
)
def test_arguments(monkeypatch: pytest.MonkeyPatch, environment: Any, arguments: dict[str, int]) -> None:
    if environment:
        launched(monkeypatch, *environment)
    assert adapter.trainer_arguments() == arguments
    adapter.check(SimpleNamespace(num_devices=arguments["devices"], num_nodes=arguments["num_nodes"]))


def test_arguments_in_a_static_job_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"NPROC_PER_NODE": 2, "NNODES": 3, "WORLD_SIZE": 6}.items():
        monkeypatch.setenv(name, str(value))
    assert adapter.trainer_arguments() == {"devices": 2, "num_nodes": 3}
    launched(monkeypatch, 6, 1, 6)  # torchrun knows better what it has started
    assert adapter.trainer_arguments() == {"devices": 1, "num_nodes": 6}


def test_nodes_of_different_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, 5, 2, 2)
    message = "started 5 workers on 2 nodes, and 2 on this node: Lightning needs the same number on each node"
    with pytest.raises(LaunchError, match=message):
        adapter.trainer_arguments()


@pytest.mark.parametrize(("devices", "nodes"), [(1, 1), (3, 2), (6, 1), (2, 1)])
def test_a_trainer_that_does_not_fit(monkeypatch: pytest.MonkeyPatch, devices: int, nodes: int) -> None:
    launched(monkeypatch, 6, 2, 3)
    message = (
        f"Trainer(devices={devices}, num_nodes={nodes}) does not fit the 6 workers that torchrun has started: write "
        "devices=2, num_nodes=3, or in an elastic job, where they change, "
        "**torchrun_trainer.lightning.trainer_arguments()"
    )
    with pytest.raises(LaunchError, match=f"^{re.escape(message)}$"):
        adapter.check(SimpleNamespace(num_devices=devices, num_nodes=nodes))


class Model(pl.LightningModule):  # type: ignore[misc, name-defined]
    def __init__(self, fail_at: int = -1) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.fail_at = fail_at
        self.handler: object = None

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        self.handler = signal.getsignal(signal.SIGTERM)
        if self.trainer.global_step == self.fail_at:
            raise RuntimeError("on purpose")
        loss: torch.Tensor = self.layer(*batch).square().mean()
        return loss

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        self.layer(*batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(elastic: Any, model: Model, max_steps: int, **more: Any) -> None:
    trainer = pl.Trainer(
        **adapter.trainer_arguments(),
        accelerator="cpu",
        max_steps=max_steps,
        callbacks=[elastic],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        **more,
    )
    data: Any = DataLoader(TensorDataset(torch.ones(100, 1)))
    trainer.fit(model, data, data if "limit_val_batches" in more else None, ckpt_path=elastic.checkpoint)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    found = re.findall(r"time=\S+ (.*)", capsys.readouterr().out)
    return [re.sub(r" (loss|samples/s)=\S+", "", line) for line in found]


def test_it_saves_now_and_then_and_goes_on_from_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".step-000000000099.tmp").mkdir()
    (tmp_path / ".step-000000000098.tmp").touch()
    (tmp_path / "step-1.ckpt").touch()  # of another library
    first = adapter.Elastic(tmp_path, snapshot_every=3, samples_per_step=1, report_seconds=600)
    assert (first.step, first.checkpoint) == (0, None)
    fit(first, Model(), 7)
    assert names(tmp_path) == ["step-000000000006.ckpt", "step-000000000007.ckpt", "step-1.ckpt"]
    assert lines(capsys) == [
        "event=start at=0 world=1",
        "step=1/7 epoch=0 world=1",
        "step=7/7 epoch=0 world=1 snapshot=6",
    ]

    second = adapter.Elastic(tmp_path, snapshot_every=3, keep=1, report_seconds=600)
    assert (second.step, second.checkpoint) == (7, tmp_path / "step-000000000007.ckpt")
    model = Model()
    fit(second, model, 10)
    assert second.step == 10
    assert names(tmp_path) == ["step-000000000010.ckpt", "step-1.ckpt"]
    assert lines(capsys)[:2] == ["event=start at=7 world=1", "step=8/10 epoch=0 world=1"]
    assert "Termination" in repr(model.handler)  # not Lightning's, which calls a collective
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_steps_are_those_of_the_optimizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elastic = adapter.Elastic(tmp_path)
    fit(elastic, Model(), 3, accumulate_grad_batches=2, val_check_interval=2, limit_val_batches=2)
    assert elastic.step == 3
    assert names(tmp_path) == ["step-000000000003.ckpt"]
    assert lines(capsys)[-1].startswith("step=3/3 ")


def test_an_error_ends_what_watches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHRUN_SNAPSHOT_PATH", "")
    elastic = adapter.Elastic()
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(elastic, Model(fail_at=2), 5)
    assert elastic._run is None
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="snapshot_every is 0; it must be at least 1"):
        adapter.Elastic("", snapshot_every=0)


def test_a_sharded_checkpoint_is_a_directory(tmp_path: Path) -> None:
    (tmp_path / "step-000000000001.ckpt").mkdir()
    (tmp_path / "step-000000000001.ckpt/shard").touch()
    internals._remove(tmp_path / "step-000000000001.ckpt")
    assert names(tmp_path) == []
