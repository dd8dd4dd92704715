"""The training script: a small model, a snapshot each second, and a journal on the shared volume.

Each process has its own file: the log of a pod ends with it, and is unreachable on a Kubernetes node without network.
"""

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

_BEGAN = time.time()
_RANK = int(os.environ["RANK"])
_WORLD = int(os.environ["WORLD_SIZE"])
_MASTER = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
_DIRECTORY = Path(sys.argv[1])
_JOURNAL = os.open(
    _DIRECTORY / f"{os.uname().nodename}-{time.time_ns()}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644
)


def _say(event: str, **values: object) -> None:
    line = {"event": event, "time": time.time(), "master": _MASTER, **values}
    os.write(_JOURNAL, f"{json.dumps(line)}\n".encode())


_say(
    "start",
    pod=os.uname().nodename,
    process=os.getpid(),
    rank=_RANK,
    world=_WORLD,
    run=os.environ["TORCHELASTIC_RUN_ID"],
    restart=int(os.environ["TORCHELASTIC_RESTART_COUNT"]),
)


def _told_to_fail() -> bool:
    """Whether a fault makes this round fail right after its start. Rank 0 takes one token per round."""
    for token in _DIRECTORY.glob("FAIL-*") if _RANK == 0 else ():
        with suppress(FileNotFoundError):
            token.unlink()
            return True
    return False


if _told_to_fail():
    sys.exit("a fault makes this round fail at once")

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

from torchrun_trainer import Run, defer_compiler  # noqa: E402

_STEP_SECONDS = 0.1
_SNAPSHOT_EVERY = 10
_LAST_STEPS = 50
"""Number of steps after the file FINISH appears."""
_ENDLESS = 10**9


def main() -> None:
    """Train until the file FINISH appears, then some more steps, to a regular end."""
    defer_compiler()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = DistributedDataParallel(torch.nn.Linear(64, 64))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    run = Run(_DIRECTORY / "snapshots", snapshot_every=_SNAPSHOT_EVERY, model=model, optimizer=optimizer)
    resumed = told = run.step

    def train(step: int) -> None:
        nonlocal told
        began = time.monotonic()
        if run.snapshot and run.snapshot.step > told:
            told = run.snapshot.step
            _say("snapshot", step=told)  # It is complete a moment after its step.
        optimizer.zero_grad()
        model(torch.ones(8, 64)).square().mean().backward()
        optimizer.step()
        time.sleep(max(0.0, _STEP_SECONDS - (time.monotonic() - began)))
        if _RANK == 0:
            _say("step", done=step + 1, resumed=resumed, world=_WORLD)

    for step in run.steps(_ENDLESS):
        if _told_to_finish():
            break
        train(step)
    for step in run.steps(run.step + _LAST_STEPS):
        train(step)
    _say("end", step=run.step)


def _told_to_finish() -> bool:
    """Whether rank 0 has seen the file. The same on all ranks."""
    told = torch.tensor([int(_RANK == 0 and (_DIRECTORY / "FINISH").exists())])
    dist.broadcast(told, src=0)
    return bool(told.item())


if __name__ == "__main__":
    main()
