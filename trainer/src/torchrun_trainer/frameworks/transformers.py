"""Hugging Face transformers: a callback that keeps the Trainer elastic under torchrun."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from torch.nn import Module

from torchrun_trainer.frameworks.driven import Driven
from torchrun_trainer.watch.process import prepare

try:
    from safetensors import safe_open
    from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
    from transformers.training_args import TrainingArguments
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("torchrun_trainer.transformers needs transformers: pip install transformers") from error

WEIGHTS = "model.safetensors"
_NAME = re.compile(r"checkpoint-(\d+)")


def newest_checkpoint(output_dir: str | Path) -> str | None:
    """Return the newest complete checkpoint in a Trainer's ``output_dir``, for ``resume_from_checkpoint``.

    Returns None if there is none. The Trainer writes its state last, so an incomplete checkpoint has no readable state,
    and is skipped.
    """
    found = {
        int(match[1]): path
        for path in Path(output_dir).glob("checkpoint-*")
        if (match := _NAME.fullmatch(path.name)) and _complete(path)
    }
    return str(found[max(found)]) if found else None


class CheckpointError(RuntimeError):
    """A checkpoint does not hold the weights of the model that continues from it."""


def _check_weights(checkpoint: Path, model: Module) -> None:
    """Compare the names of the weights. If they differ, the Trainer only warns and continues with untrained weights.

    Only names that the model does not have count, since tied weights are saved once.
    """
    if not (checkpoint / WEIGHTS).exists():
        return  # sharded, or of an adapter: read in other ways
    with safe_open(checkpoint / WEIGHTS, "pt") as file:
        strange = sorted(set(file.keys()) - set(model.state_dict()))
    if strange:
        raise CheckpointError(
            f"{checkpoint} holds {len(strange)} weights that this model does not have ({', '.join(strange[:3])}): "
            "the Trainer would continue with untrained weights. The checkpoint belongs to another model, or this model "
            "saves its weights under other names: use another model class, or load the checkpoint by from_pretrained"
        )


def _complete(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    return True


class Elastic(TrainerCallback):
    """Makes the Trainer save before the ranks leave, and reports progress.

    After each step (of the optimizer) the ranks agree whether one of them has received SIGTERM. If so, the Trainer
    saves a checkpoint, whatever its ``save_strategy``, and the ranks leave.

    Args:
        report_seconds: time between two lines of progress.
        drain_seconds: how long a rank waits for its own SIGTERM after the ranks have agreed to stop.

    """

    def __init__(self, *, report_seconds: float = 1.0, drain_seconds: float = 60.0) -> None:
        prepare()
        self._seconds = {"report_seconds": report_seconds, "drain_seconds": drain_seconds}
        self._run: Driven | None = None
        self._leaving = False
        self._loss: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        """Begin to count at the step of the checkpoint. Raises CheckpointError if its weights are of another model."""
        model = more.get("model")
        if state.global_step and isinstance(model, Module):
            _check_weights(Path(args.output_dir or ".") / f"checkpoint-{state.global_step}", model)
        self._run = Driven(**self._seconds)
        self._run.begin(state.global_step, state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """End a step."""
        assert self._run
        samples = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        self._run.report(loss=self._loss, samples=samples, epoch=int(state.epoch or 0))
        self._leaving = self._run.advance()
        if self._leaving:
            control.should_save = True
            control.should_evaluate = False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: object,
    ) -> None:
        """Take the loss from the logged values."""
        self._loss = (logs or {}).get("loss", self._loss)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Leave, if the checkpoint was taken for that."""
        if self._run:
            self._run.saved(Path(args.output_dir or ".") / f"checkpoint-{state.global_step}")
            if self._leaving:
                self._run.leave()

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Report that an evaluation makes progress."""
        if self._run:
            self._run.alive()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Stop watching the steps."""
        if self._run:
            self._run.close()
            self._run = None
