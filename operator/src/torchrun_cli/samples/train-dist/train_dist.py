# Generated from e2e/examples/train_dist/train_dist.py by operator/codegen/generate.py; do not edit.
"""Fits a small network to a curve. It starts its own processes and knows its ranks from options: no torchrun."""

import argparse
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def train(local_rank: int, args: argparse.Namespace) -> None:
    """Train in one process. Its rank in the world is that of the first process of the node, plus its own."""
    rank, gpu = args.offset + local_rank, torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(local_rank)
    device = torch.device("cuda", local_rank) if gpu else torch.device("cpu")
    dist.init_process_group("nccl" if gpu else "gloo", rank=rank, world_size=args.world_size)

    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 1)).to(device))
    opt = torch.optim.AdamW(model.parameters(), lr=5e-3)
    first = load(args.snapshot_path, model, opt, device)
    for epoch in range(first, args.total_epochs):
        inputs = torch.rand(256, 2, generator=torch.Generator().manual_seed(epoch * args.world_size + rank)) * 2 - 1
        targets = torch.sin(3 * inputs).prod(dim=1, keepdim=True)
        opt.zero_grad()
        loss = nn.functional.mse_loss(model(inputs.to(device)), targets.to(device))
        loss.backward()
        opt.step()
        time.sleep(args.epoch_seconds)
        if rank == 0 and (epoch + 1) % args.save_every == 0:
            save(args.snapshot_path, model, opt, epoch + 1)
        print(f"rank={rank} world={dist.get_world_size()} node={os.environ.get('NODE_RANK')} epoch={epoch} "
              f"from={first} loss={loss.item():.4g}", flush=True)  # fmt: skip
    if rank == 0:
        print(f"rank=0 epoch={args.total_epochs} from={first} error={error_of(model.module, device):.4g}", flush=True)
    dist.destroy_process_group()


def error_of(model: nn.Module, device: torch.device) -> float:
    """Return the mean squared error on points that the training has not seen."""
    inputs = (torch.rand(1024, 2, generator=torch.Generator().manual_seed(2**40)) * 2 - 1).to(device)
    with torch.no_grad():
        return nn.functional.mse_loss(model(inputs), torch.sin(3 * inputs).prod(dim=1, keepdim=True)).item()


def load(path: str, model: nn.Module, opt: torch.optim.Optimizer, device: torch.device) -> int:
    """Load the snapshot, if there is one, and return the epoch to begin with."""
    if not path or not Path(path).exists():
        return 0
    snapshot = torch.load(path, map_location=device, weights_only=True)
    model.load_state_dict(snapshot["model"])
    opt.load_state_dict(snapshot["opt"])
    return int(snapshot["epoch"])


def save(path: str, model: nn.Module, opt: torch.optim.Optimizer, epoch: int) -> None:
    """Write a snapshot, and replace the last one only when the new one is complete."""
    if path:
        torch.save({"model": model.state_dict(), "opt": opt.state_dict(), "epoch": epoch}, f"{path}.part")
        Path(f"{path}.part").replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--offset", type=int, default=0, help="rank of the first process of this node")
    parser.add_argument("--size", type=int, default=1, help="processes of this node")
    parser.add_argument("--world_size", type=int, default=1, help="processes of all nodes")
    parser.add_argument("--total-epochs", type=int, default=100)
    parser.add_argument("--save-every", type=int, default=10, help="epochs between two snapshots")
    parser.add_argument("--epoch-seconds", type=float, default=0.0, help="least time of an epoch, to watch it")
    parser.add_argument("--snapshot-path", default="")
    args = parser.parse_args()
    torch.set_num_threads(1)
    mp.start_processes(train, args=(args,), nprocs=args.size, start_method="fork")


if __name__ == "__main__":
    main()
