"""The training script of all pods: a small model, a snapshot per second, and a line of JSON for each step."""

import json
import os
import sys
import time

_BEGAN = time.time()


def _say(what: str, **values: object) -> None:
    if os.environ["RANK"] == "0":
        sys.stdout.write(f"{json.dumps({'bench': what, **values})}\n")
        sys.stdout.flush()


# Before the import of PyTorch, which takes seconds, so that a round that ends during it counts too.
_say("boot", time=_BEGAN, world=int(os.environ["WORLD_SIZE"]))

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

from torchrun_trainer import Run, defer_compiler  # noqa: E402

_STEP_SECONDS = 0.1
_SNAPSHOT_EVERY = 10


def main(snapshots: str) -> None:
    """Train until SIGTERM."""
    defer_compiler()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = DistributedDataParallel(torch.nn.Linear(64, 64))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    run = Run(snapshots, snapshot_every=_SNAPSHOT_EVERY, model=model, optimizer=optimizer)
    world, resumed = dist.get_world_size(), run.step
    for step in run.steps(sys.maxsize):
        began = time.monotonic()
        loss = model(torch.ones(8, 64)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        time.sleep(max(0.0, _STEP_SECONDS - (time.monotonic() - began)))
        _say("step", time=time.time(), done=step + 1, world=world, began=_BEGAN, resumed=resumed)


if __name__ == "__main__":
    main(sys.argv[1])
