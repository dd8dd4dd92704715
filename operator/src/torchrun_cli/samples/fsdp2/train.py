# Generated from e2e/examples/fsdp2_digits/train.py by operator/codegen/generate.py; do not edit.
"""Learns handwritten digits with FSDP2: every worker holds a share of the model and of the optimizer's state.

Each worker writes its shards with torch.distributed.checkpoint. A restart with another number of workers shards them
again. The data set has 1,797 images of 8x8 pixels. It comes with scikit-learn (UCI, optical recognition of handwritten
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
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

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


def build_model(device: torch.device) -> nn.Module:
    """Return a model that is sharded over all workers, layer by layer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)).to(device)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--total-epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=96, help="samples per step, of all workers together")
    parser.add_argument("--snapshot-path", help="shared directory (default: $TORCHRUN_SNAPSHOT_PATH)")
    parser.add_argument("--snapshot-every", type=int, default=50, help="steps between snapshots")
    parser.add_argument("--min-step-seconds", type=float, default=0.0, help="make each step take longer, to watch it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")

    images, labels = (part.to(device) for part in load())
    train_images, train_labels = images[TEST_SAMPLES:], labels[TEST_SAMPLES:]
    batches = GlobalBatches(len(train_images), options.batch_size)
    model = build_model(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    run = Run(options.snapshot_path, snapshot_every=options.snapshot_every, model=model, optimizer=optimizer)
    whole = sum(parameter.numel() for parameter in model.parameters())
    print(f"rank={run.rank} world={run.world_size} from={run.step} parameters={whole} mine={mine(model)}", flush=True)
    for step in run.steps(batches.steps(options.total_epochs)):
        time.sleep(options.min_step_seconds)
        share = batches.share(step, run.rank, run.world_size)
        # Gradients are averaged over workers, but shares differ: weigh the loss so that every sample counts the same.
        loss = nn.functional.cross_entropy(model(train_images[share]), train_labels[share], reduction="sum")
        loss = loss * run.world_size / options.batch_size
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.report(loss=loss, samples=options.batch_size, epoch=batches.epoch(step))

    with torch.no_grad():
        predicted = model(images[:TEST_SAMPLES]).argmax(dim=1)
    if run.rank == 0:
        print(f"accuracy={(predicted == labels[:TEST_SAMPLES]).float().mean().item():.4f}", flush=True)
    dist.destroy_process_group()


def mine(model: nn.Module) -> int:
    """Return how many of the parameters this worker holds."""
    return sum(parameter.to_local().numel() for parameter in model.parameters())


if __name__ == "__main__":
    main()
