"""A worker that learns a function, with recovery step by step if the environment asks for it; runs in a forked process.

It writes a line at the beginning of each attempt at a step: time, step, rank, world size and samples.
"""

import importlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import FileStore, HashStore  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from torchrun_trainer import GlobalBatches, Run, defer_compiler
from torchrun_trainer.per_step import transport

# Before processes are forked, as it is slow.
transport.imported()
importlib.import_module("torchft.checkpointing.http_transport")

SAMPLES, BATCH = 97, 24
HURRY = "hurry"
"""The file after which the steps need not last."""


@dataclass(frozen=True)
class Job:
    """What a worker does, and in which part of its third step in a world of three it dies by SIGKILL."""

    directory: str
    name: str
    environment: dict[str, str]
    steps: int
    seconds: float = 0.0
    loader: bool = False
    rank: int = 0
    size: int = 1
    dies_in: str = ""
    store: str = ""
    attempts: list[int] = field(default_factory=list)

    def reached(self, part: str) -> None:
        """Die, if it is time."""
        if part == self.dies_in and len(self.attempts) == 3:
            os.kill(os.getpid(), signal.SIGKILL)


def work(job: Job) -> None:
    """Train, and write the lines, and the parameters at the end."""
    os.environ.update(job.environment)
    torch.set_num_threads(1)
    defer_compiler()
    torch.manual_seed(job.rank)  # DistributedDataParallel gives all ranks of a group the same parameters
    store = FileStore(job.store, job.size) if job.store else HashStore()
    dist.init_process_group("gloo", store=store, rank=job.rank, world_size=job.size)
    chance = torch.Generator().manual_seed(0)
    inputs = torch.randn(SAMPLES, 16, generator=chance)
    targets = inputs @ torch.randn(16, 4, generator=chance)
    net = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4))
    model = DistributedDataParallel(net, bucket_cap_mb=0.005)  # several buckets, which get another order
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.9)
    batches = GlobalBatches(SAMPLES, BATCH)
    snapshots = f"{job.directory}/snapshots"
    run = Run(snapshots, snapshot_every=20, model=model, optimizer=optimizer, scheduler=scheduler, batches=batches)
    _die_in_the_middle(job, model, optimizer)
    with Path(job.directory, job.name).open("a") as file:
        for mine, images, labels in _shares(job, run, batches, inputs, targets):
            began = time.monotonic()
            step = run.step
            taken = ",".join(map(str, mine.tolist()))
            print(f"{time.time():.3f} {step} {run.rank} {run.world_size} {taken}", file=file, flush=True)
            if run.world_size == 3:
                job.attempts.append(step)
            job.reached("start")
            errors = (model(images) - labels).square().mean(dim=1)
            loss = run.weigh(errors.mean()) if job.loader else errors.sum() * run.world_size / BATCH
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            job.reached("end")
            scheduler.step()
            if not Path(job.directory, HURRY).exists():
                time.sleep(max(0.0, job.seconds - (time.monotonic() - began)))
        values = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        print("end", run.step, *values.tolist(), file=file, flush=True)
    dist.destroy_process_group()


def _shares(
    job: Job, run: Run, batches: GlobalBatches, inputs: Tensor, targets: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    if job.loader:
        dataset = TensorDataset(torch.arange(SAMPLES), inputs, targets)
        loader: DataLoader[Any] = DataLoader(dataset, batch_sampler=batches.sampler())
        yield from run.batches(loader, job.steps)
    else:
        for step in run.steps(job.steps):
            mine = batches.share(step, run.rank, run.world_size)
            yield mine, inputs[mine], targets[mine]


def _die_in_the_middle(job: Job, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Die between two gradients, or between the averages and the vote."""
    layers = [*model.parameters()]
    layers[2].register_hook(lambda _: job.reached("backward"))  # type: ignore[no-untyped-call]
    guarded = optimizer.step

    def step() -> None:
        job.reached("vote")
        guarded()

    optimizer.step = step  # type: ignore[method-assign,assignment]
