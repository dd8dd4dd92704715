"""Learns handwritten digits with Hugging Face Accelerate: a plain loop that torchrun can stop and resize.

The data set has 1,797 images of 8x8 pixels. It comes with scikit-learn (UCI, optical recognition of handwritten
digits).
"""

import argparse
import gzip
import importlib.util
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from torchrun_trainer import GlobalBatches, Run

TEST_SAMPLES = 360


def load() -> tuple[Tensor, Tensor]:
    """Read images (N, 64) with values from 0 to 1, and their labels (N): from the image, else from scikit-learn."""
    path, sklearn = Path("/opt/data/digits.csv.gz"), importlib.util.find_spec("sklearn")
    if not path.exists() and sklearn is not None and sklearn.origin is not None:
        path = Path(sklearn.origin).parent / "datasets/data/digits.csv.gz"
    with gzip.open(path, "rt") as file:
        rows = torch.tensor([[float(value) for value in line.split(",")] for line in file])
    return rows[:, :64] / 16, rows[:, 64].long()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--total-epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=96, help="samples per step, of all workers together")
    parser.add_argument("--snapshot-path", help="shared directory (default: $TORCHRUN_SNAPSHOT_PATH)")
    parser.add_argument("--snapshot-every", type=int, default=50, help="steps between snapshots")
    parser.add_argument("--min-step-seconds", type=float, default=0.0, help="make each step take longer, to watch it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)

    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    images, labels = (part.to(accelerator.device) for part in load())
    train_images, train_labels = images[TEST_SAMPLES:], labels[TEST_SAMPLES:]
    batches = GlobalBatches(len(train_images), options.batch_size)

    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=2e-3))
    run = Run(options.snapshot_path, snapshot_every=options.snapshot_every, model=model, optimizer=optimizer)
    for step in run.steps(batches.steps(options.total_epochs)):
        time.sleep(options.min_step_seconds)
        mine = batches.share(step, run.rank, run.world_size)
        # Gradients are averaged over workers, but shares differ: weigh the loss so that every sample counts the same.
        loss = nn.functional.cross_entropy(model(train_images[mine]), train_labels[mine], reduction="sum")
        loss = loss * run.world_size / options.batch_size
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        run.report(loss=loss, samples=options.batch_size, epoch=batches.epoch(step))

    with torch.no_grad():
        predicted = accelerator.unwrap_model(model)(images[:TEST_SAMPLES]).argmax(dim=1)
    if accelerator.is_main_process:
        print(f"accuracy={(predicted == labels[:TEST_SAMPLES]).float().mean().item():.4f}", flush=True)
    accelerator.end_training()


if __name__ == "__main__":
    main()
