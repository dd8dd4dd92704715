# Generated from e2e/examples/multi_node/train.py by operator/codegen/generate.py; do not edit.
"""Learns handwritten digits with DistributedDataParallel, and needs PyTorch only: a script for a fixed number of nodes.

The worker of rank 0 saves a snapshot after each epoch, and a report at the end. A restart continues from the snapshot.
The data set has 1,797 images of 8x8 pixels. It comes with scikit-learn (UCI, optical recognition of handwritten
digits).
"""

import argparse
import gzip
import json
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

TEST_SAMPLES = 360


def load(path: Path, device: torch.device) -> tuple[Tensor, Tensor]:
    """Read images (N, 64) with values from 0 to 1, and their labels (N)."""
    with gzip.open(path, "rt") as file:
        rows = torch.tensor([[float(value) for value in line.split(",")] for line in file]).to(device)
    return rows[:, :64] / 16, rows[:, 64].long()


def save(path: Path, state: dict[str, object]) -> None:
    """Write a snapshot, and replace the last one only when the new one is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshot_path", type=Path, required=True, help="directory that all nodes share")
    parser.add_argument("--total_epochs", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=32, help="samples per step and worker")
    parser.add_argument("--epoch_seconds", type=float, default=0.0, help="least time of an epoch, to watch it")
    parser.add_argument("--data", type=Path, default=Path("/opt/data/digits.csv.gz"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    cuda, local_rank = torch.cuda.is_available(), int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()

    images, labels = load(options.data, device)
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)).to(device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    snapshot, first = options.snapshot_path / "snapshot.pt", 0
    if snapshot.exists():
        state = torch.load(snapshot, map_location=device, weights_only=True)
        model.module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"]
    print(f"rank={rank} world={world_size} group={os.environ['GROUP_RANK']} from={first}", flush=True)
    for epoch in range(first, options.total_epochs):
        began = time.monotonic()
        shuffle = torch.Generator().manual_seed(epoch)
        order = torch.randperm(len(images) - TEST_SAMPLES, generator=shuffle) + TEST_SAMPLES
        for chosen in order[rank::world_size][: len(order) // world_size].split(options.batch_size):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
            loss.backward()
            optimizer.step()
        time.sleep(max(0.0, options.epoch_seconds - (time.monotonic() - began)))
        if rank == 0:
            print(f"rank=0 epoch={epoch + 1}/{options.total_epochs} loss={loss.item():.4g}", flush=True)
            state = {"model": model.module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1}
            save(snapshot, state)

    if rank == 0:
        with torch.no_grad():
            predicted = model.module(images[:TEST_SAMPLES]).argmax(dim=1)
        accuracy = (predicted == labels[:TEST_SAMPLES]).float().mean().item()
        report = {"accuracy": round(accuracy, 4), "world_size": world_size, "epochs": options.total_epochs}
        (options.snapshot_path / "report.json").write_text(json.dumps(report))
        print(f"accuracy={accuracy:.4f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
