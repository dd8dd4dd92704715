"""Fits a linear model to the digits, for the tests of recipes. Any launcher can start it that sets RANK and WORLD_SIZE.

Each worker ends with a line `rank=... world=... node=... steps=... first=... last=... weights=...`.
"""

import argparse
import hashlib
import os
import socket
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    device = torch.device("cuda" if gpu else "cpu")
    dist.init_process_group("nccl" if gpu else "gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    images, labels = digits(args.data)
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(images.shape[1], 10).to(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr)
    first = last = 0.0
    for step in range(args.steps):
        chosen = torch.randint(len(images), (64,), generator=torch.Generator().manual_seed(step * world + rank))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images[chosen].to(device)), labels[chosen].to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        mean = loss.detach()
        dist.all_reduce(mean)
        last = mean.item() / world
        first = first or last
        if rank == 0 and args.snapshot:
            save(Path(args.snapshot), model, step + 1)
    weights = b"".join(parameter.detach().cpu().numpy().tobytes() for parameter in model.parameters())
    print(
        f"rank={rank} world={world} node={socket.gethostname()} steps={args.steps} first={first:.4f} last={last:.4f} "
        f"weights={hashlib.sha256(weights).hexdigest()[:16]} tag={args.tag}",
        flush=True,
    )
    dist.barrier()
    dist.destroy_process_group()


def arguments() -> argparse.Namespace:
    """Read the options. Recipes have further ones, which mean nothing here."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--data", default="/opt/data/digits.csv.gz", help="the digits, or a directory with them")
    parser.add_argument("--snapshot", default="", help="a file for the weights and the step")
    parser.add_argument("--tag", default="-")
    return parser.parse_known_args()[0]


def digits(place: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (1797 x 64, from 0 to 1) and labels."""
    path = Path(place)
    table = np.loadtxt(path / "digits.csv.gz" if path.is_dir() else path, delimiter=",", dtype=np.float32)
    return torch.from_numpy(table[:, :-1] / 16), torch.from_numpy(table[:, -1]).long()


def save(path: Path, model: nn.Module, step: int) -> None:
    """Write a snapshot, under its name once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save({"model": model.state_dict(), "step": step}, part)
    part.replace(path)


if __name__ == "__main__":
    main()
