"""A minimal elastic script for the tests: each rank logs every step that it begins in a file of its own."""

import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from torchrun_trainer import Run, defer_compiler


def main(directory: Path, total_steps: int, pause_at: int) -> None:
    """Do the steps; at ``pause_at`` rank 0 writes the file ``paused`` and all wait for the file ``go``."""
    torch.set_num_threads(1)
    defer_compiler()
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = DistributedDataParallel(torch.nn.Linear(1, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    run = Run(directory / "snapshots", snapshot_every=5, drain_seconds=20, model=model, optimizer=optimizer)
    notes = directory / f"steps-{run.rank}"
    for step in run.steps(total_steps):
        with notes.open("a") as file:
            file.write(f"{step}/{run.world_size}\n")
        if step == pause_at:
            if run.rank == 0:
                (directory / "paused").touch()
            while not (directory / "go").exists():
                time.sleep(0.01)
        loss = model(torch.ones(4, 1) * (step % 7 + 1) / 7).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.report(loss=loss, samples=4, epoch=0)
    if run.rank == 0:
        (directory / "weight").write_text(repr(model.module.weight.item()))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
