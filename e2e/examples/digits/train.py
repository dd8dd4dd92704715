"""Learns to read handwritten digits: a plain DistributedDataParallel script that torchrun can stop and resize.

The data set has 1,797 images of 8x8 pixels. It comes with scikit-learn (UCI, optical recognition of handwritten
digits).
"""

import argparse
import gzip
import importlib.util
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from torchrun_trainer import GlobalBatches, Run, defer_compiler

TEST_SAMPLES = 360


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--total-steps", type=int, help="instead of --total-epochs")
    parser.add_argument("--total-epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=96, help="samples per step, of all workers together")
    parser.add_argument("--snapshot-path", help="shared directory (default: $TORCHRUN_SNAPSHOT_PATH)")
    parser.add_argument("--snapshot-every", type=int, default=50, help="steps between snapshots")
    parser.add_argument(
        "--min-step-seconds",
        type=float,
        default=0.0,
        help="sleep until a step has taken this long, to watch it",
    )
    parser.add_argument("--fail-at-step", type=int, help="let one worker fail there, once, to watch a restart")
    parser.add_argument("--track", action="append", default=[], help="tensorboard or wandb; may be repeated")
    parser.add_argument("--data", type=Path, default=Path("/opt/data/digits.csv.gz"), help="else scikit-learn's copy")
    return parser.parse_args()


def load(path: Path, device: torch.device) -> tuple[Tensor, Tensor]:
    """Read images (N, 1, 8, 8) with values from 0 to 1, and their labels (N); scikit-learn itself is slow to import."""
    if not path.exists():
        sklearn = importlib.util.find_spec("sklearn")
        if sklearn is None or sklearn.origin is None:
            raise SystemExit(f"{path} does not exist and scikit-learn is not installed: set --data")
        path = Path(sklearn.origin).parent / "datasets/data/digits.csv.gz"
    with gzip.open(path, "rt") as file:
        rows = torch.tensor([[float(value) for value in line.split(",")] for line in file])
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))].to(device)
    return rows[:, :64].reshape(-1, 1, 8, 8) / 16, rows[:, 64].long()


def build_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    defer_compiler()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()

    images, labels = load(options.data, device)
    train_images, train_labels = images[TEST_SAMPLES:], labels[TEST_SAMPLES:]
    batches = GlobalBatches(len(train_images), options.batch_size)
    total_steps = options.total_steps or batches.steps(options.total_epochs)

    model = DistributedDataParallel(build_model().to(device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    run = Run(
        options.snapshot_path,
        snapshot_every=options.snapshot_every,
        track=options.track,
        model=model,
        optimizer=optimizer,
    )
    first = run.step
    for step in run.steps(total_steps):
        began = time.monotonic()
        if step == options.fail_at_step and first == 0 and rank == world_size - 1:
            raise RuntimeError(f"--fail-at-step={step}: this worker fails once")
        mine = batches.share(step, rank, world_size)
        outputs = model(train_images[mine])
        # Gradients are averaged over workers, but shares differ: weigh the loss so that every sample counts the same.
        loss = nn.functional.cross_entropy(outputs, train_labels[mine], reduction="sum")
        loss = loss * world_size / options.batch_size
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.report(loss=loss, samples=options.batch_size, epoch=batches.epoch(step))
        time.sleep(max(0.0, options.min_step_seconds - (time.monotonic() - began)))

    with torch.no_grad():
        predicted = model.module(images[:TEST_SAMPLES]).argmax(dim=1)
    if rank == 0:
        accuracy = (predicted == labels[:TEST_SAMPLES]).float().mean().item()
        print(f"accuracy={accuracy:.4f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
