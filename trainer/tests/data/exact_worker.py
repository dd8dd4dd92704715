"""A script for the tests that logs its samples: uneven shares, micro-batches, a loader with its own workers.

It stops before the step in the file ``gate``, so that the test chooses where a fault hits.
"""

import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from torchrun_trainer import GlobalBatches, Run, defer_compiler

SAMPLES = 90
BATCH = 22
EPOCHS = 40


def gate(directory: Path) -> int:
    return int((directory / "gate").read_text() or "0")


def main(directory: Path) -> None:
    torch.set_num_threads(1)
    defer_compiler()
    dist.init_process_group("gloo")
    attempt = torch.tensor(time.time_ns())
    dist.broadcast(attempt, src=0)
    torch.manual_seed(0)
    inputs = torch.rand(SAMPLES, 3)
    targets = inputs.prod(dim=1, keepdim=True) + 0.1 * torch.randn(SAMPLES, 1)
    dataset = TensorDataset(torch.arange(SAMPLES), inputs, targets)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    batches = GlobalBatches(SAMPLES, BATCH)
    loader = DataLoader(dataset, batch_sampler=batches.sampler(4), num_workers=1 if dist.get_world_size() < 3 else 0)
    run = Run(directory / "snapshots", snapshot_every=7, model=model, optimizer=optimizer, batches=batches)
    notes = directory / f"{attempt.item()}-{run.rank}.txt"
    for _epoch in run.epochs(EPOCHS):
        for step in run.accumulate(loader):
            while gate(directory) <= run.step:
                (directory / f"waiting-{run.rank}").write_text(f"{os.getpid()} {run.step}")
                time.sleep(0.01)
            optimizer.zero_grad()
            total, taken = torch.zeros(()), list[int]()
            for indices, features, values in step:
                loss = run.weigh(nn.functional.mse_loss(model(features), values))
                loss.backward()  # type: ignore[no-untyped-call]
                total, taken = total + loss.detach(), taken + indices.tolist()
            optimizer.step()
            note(notes, run.step, total, taken)
    if run.rank == 0:
        torch.save(model.module.state_dict(), directory / "final.pt")
    dist.destroy_process_group()


def note(notes: Path, step: int, loss: Tensor, taken: list[int]) -> None:
    """Write down the loss of the whole batch, and the samples of this rank."""
    dist.all_reduce(loss)
    with notes.open("a") as file:
        file.write(f"{step} {loss.item() / dist.get_world_size():.9g} {','.join(map(str, taken))}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
