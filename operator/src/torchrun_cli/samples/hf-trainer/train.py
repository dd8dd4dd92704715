# Generated from e2e/examples/hf_trainer/train.py by operator/codegen/generate.py; do not edit.
"""Trains a tiny ConvNext with the transformers Trainer, which torchrun can stop and resize.

It reads handwritten digits, 1,797 images of 8x8 pixels that come with scikit-learn (UCI, optical recognition of
handwritten digits). The model is created here: nothing is downloaded.
"""

import argparse
import gzip
import importlib.util
import time
from pathlib import Path

import numpy
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    EvalPrediction,
    Trainer,
    TrainingArguments,
    set_seed,
)

from torchrun_trainer import check_launch
from torchrun_trainer.transformers import Elastic, newest_checkpoint

TEST_SAMPLES = 360


def load() -> tuple[Tensor, Tensor]:
    """Read images (N, 64) with values from 0 to 1, and their labels (N): from the image, else from scikit-learn."""
    path, sklearn = Path("/opt/data/digits.csv.gz"), importlib.util.find_spec("sklearn")
    if not path.exists() and sklearn is not None and sklearn.origin is not None:
        path = Path(sklearn.origin).parent / "datasets/data/digits.csv.gz"
    with gzip.open(path, "rt") as file:
        rows = torch.tensor([[float(value) for value in line.split(",")] for line in file])
    return rows[:, :64] / 16, rows[:, 64].long()


class Digits(Dataset[dict[str, Tensor]]):
    def __init__(self, first: int, last: int, min_step_seconds: float) -> None:
        images, labels = load()
        self.images = images[first:last].reshape(-1, 1, 8, 8) * 2 - 1
        self.labels = labels[first:last]
        self.min_step_seconds = min_step_seconds

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.images[index], "labels": self.labels[index]}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Tensor]]:
        time.sleep(self.min_step_seconds)
        return [self[index] for index in indices]


def accuracy_of(found: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((numpy.asarray(found.predictions).argmax(-1) == found.label_ids).mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--total-epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64, help="samples per step, of all workers together")
    parser.add_argument("--snapshot-path", default="snapshots", help="shared directory")
    parser.add_argument("--snapshot-every", type=int, default=50, help="steps between checkpoints")
    parser.add_argument("--min-step-seconds", type=float, default=0.0, help="make each step take longer, to watch it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    set_seed(0)

    arguments = TrainingArguments(
        output_dir=options.snapshot_path,
        num_train_epochs=options.total_epochs,
        learning_rate=2e-3,
        save_steps=options.snapshot_every,
        save_total_limit=2,
        logging_steps=5,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
    )
    # A constant global batch keeps the number of steps per epoch, and thus the position in the data.
    check_launch(divisor_of=options.batch_size)
    arguments.per_device_train_batch_size = options.batch_size // arguments.world_size

    config = ConvNextConfig(
        image_size=8, num_channels=1, patch_size=2, num_stages=2, hidden_sizes=[32, 64], depths=[1, 1]
    )
    config.num_labels = 10
    trainer = Trainer(
        ConvNextForImageClassification(config),
        arguments,
        train_dataset=Digits(TEST_SAMPLES, 1797, options.min_step_seconds),
        eval_dataset=Digits(0, TEST_SAMPLES, 0.0),
        compute_metrics=lambda found: {
            "accuracy": (numpy.asarray(found.predictions).argmax(-1) == found.label_ids).mean().item()
        },
        callbacks=[Elastic()],
    )
    trainer.train(resume_from_checkpoint=newest_checkpoint(options.snapshot_path))
    accuracy = trainer.evaluate()["eval_accuracy"]
    if trainer.is_world_process_zero():
        print(f"accuracy={accuracy:.4f}", flush=True)


if __name__ == "__main__":
    main()
