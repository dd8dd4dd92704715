"""Learns handwritten digits with Lightning: a plain Trainer that torchrun can stop and resize.

The data set has 1,797 images of 8x8 pixels. It comes with scikit-learn (UCI, optical recognition of handwritten
digits).
"""

import argparse
import gzip
import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from torchrun_trainer import GlobalBatches
from torchrun_trainer.lightning import Elastic, trainer_arguments

TEST_SAMPLES = 360


def load() -> tuple[Tensor, Tensor]:
    """Read images (N, 64) with values from 0 to 1, and their labels (N): from the image, else from scikit-learn."""
    path, sklearn = Path("/opt/data/digits.csv.gz"), importlib.util.find_spec("sklearn")
    if not path.exists() and sklearn is not None and sklearn.origin is not None:
        path = Path(sklearn.origin).parent / "datasets/data/digits.csv.gz"
    with gzip.open(path, "rt") as file:
        rows = torch.tensor([[float(value) for value in line.split(",")] for line in file])
    return rows[:, :64] / 16, rows[:, 64].long()


class Digits(pl.LightningModule):
    def __init__(self, batch_size: int, min_step_seconds: float) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.min_step_seconds = min_step_seconds
        self.model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        time.sleep(self.min_step_seconds)
        images, labels = batch
        # Gradients are averaged over workers, but shares differ: weigh the loss so that every sample counts the same.
        loss = nn.functional.cross_entropy(self.model(images), labels, reduction="sum")
        return loss * self.trainer.world_size / self.batch_size

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


class Shares(Sampler[list[int]]):
    """The share of this rank of each global batch; after a restart, of the remaining steps."""

    def __init__(self, batches: GlobalBatches, total_steps: int, elastic: Elastic) -> None:
        self.batches = batches
        self.total_steps = total_steps
        self.elastic = elastic

    def __len__(self) -> int:
        return self.total_steps

    def __iter__(self) -> Iterator[list[int]]:
        rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        for step in range(self.elastic.step, self.total_steps):
            yield self.batches.share(step, rank, world_size).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--total-epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=96, help="samples per step, of all workers together")
    parser.add_argument("--snapshot-path", help="shared directory (default: $TORCHRUN_SNAPSHOT_PATH)")
    parser.add_argument("--snapshot-every", type=int, default=50, help="steps between checkpoints")
    parser.add_argument("--min-step-seconds", type=float, default=0.0, help="make each step take longer, to watch it")
    parser.add_argument("--devices", type=int, help="workers of each node (default: as torchrun has started them)")
    parser.add_argument("--num-nodes", type=int, help="nodes (default: as torchrun has started them)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pl.seed_everything(0)

    images, labels = load()
    train = TensorDataset(images[TEST_SAMPLES:], labels[TEST_SAMPLES:])
    batches = GlobalBatches(len(train), options.batch_size)
    elastic = Elastic(options.snapshot_path, snapshot_every=options.snapshot_every, samples_per_step=options.batch_size)
    loader = DataLoader(train, batch_sampler=Shares(batches, batches.steps(options.total_epochs), elastic))
    model = Digits(options.batch_size, options.min_step_seconds)
    # For Lightning, all epochs are one: it can resume in the middle of an epoch only with such a loader.
    numbers = trainer_arguments()
    trainer = pl.Trainer(
        devices=options.devices or numbers["devices"],
        num_nodes=options.num_nodes or numbers["num_nodes"],
        accelerator="auto",
        max_epochs=1,
        callbacks=[elastic],
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
    )
    trainer.fit(model, loader, ckpt_path=elastic.checkpoint)

    with torch.no_grad():
        predicted = model.cpu().model(images[:TEST_SAMPLES]).argmax(dim=1)
    if trainer.is_global_zero:
        print(f"accuracy={(predicted == labels[:TEST_SAMPLES]).float().mean().item():.4f}", flush=True)


if __name__ == "__main__":
    main()
