"""The transformers callback in one process, and the checkpoint that a Trainer continues from."""

from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers causes many warnings itself

transformers = pytest.importorskip("transformers")
adapter = pytest.importorskip("torchrun_trainer.transformers")


def checkpoint(directory: Path, step: int, state: str | None = "{}") -> str:
    path = directory / f"checkpoint-{step}"
    path.mkdir()
    if state is not None:
        (path / "trainer_state.json").write_text(state)
    return str(path)


def test_the_newest_complete_checkpoint(tmp_path: Path) -> None:
    assert adapter.newest_checkpoint(tmp_path / "nowhere") is None
    checkpoint(tmp_path, 9)
    newest = checkpoint(tmp_path, 100)
    checkpoint(tmp_path, 200, state=None)
    checkpoint(tmp_path, 201, state='{"cut')
    (tmp_path / "checkpoint-best").mkdir()
    assert adapter.newest_checkpoint(tmp_path) == newest


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    train(tmp_path, 2)

    class Renamed(Model):
        def state_dict(self, *arguments: Any, **more: Any) -> dict[str, Any]:  # type: ignore[override]
            return {f"model.{name}": value for name, value in super().state_dict(*arguments, **more).items()}

    with pytest.raises(
        adapter.CheckpointError, match=r"checkpoint-2 holds 2 weights that this model does not have \(la"
    ):
        train(tmp_path, 4, model=Renamed())


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.layer(x).square().mean(), "logits": x}


def train(directory: Path, max_steps: int, model: Model | None = None, **more: Any) -> Any:
    arguments = transformers.TrainingArguments(
        output_dir=str(directory),
        max_steps=max_steps,
        per_device_train_batch_size=2,
        save_steps=3,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **more,
    )
    data = [{"x": torch.ones(1)} for _ in range(8)]
    elastic = adapter.Elastic()
    trainer = transformers.Trainer(
        model or Model(), arguments, train_dataset=data, eval_dataset=data, callbacks=[elastic]
    )
    trainer.train(resume_from_checkpoint=adapter.newest_checkpoint(directory))
    return elastic


def test_it_reports_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path, 4, eval_strategy="steps", eval_steps=2)._run is None
    said = capsys.readouterr().out
    assert "event=start at=0 world=1" in said
    assert " step=4/4 epoch=1 loss=" in said
    assert " world=1 snapshot=3\n" in said
    train(tmp_path, 6)
    said = capsys.readouterr().out
    assert "event=start at=4 world=1" in said
    assert " step=6/6 " in said
