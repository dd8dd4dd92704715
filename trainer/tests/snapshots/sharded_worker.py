"""Trains one model in phases, each with ranks of its own: forked processes, so that PyTorch is loaded once.

Each argument is a phase ``kind:ranks:steps:place``; a line of JSON holds its first step and its result. Kinds:
"sharded" (FSDP2), "plain", "wide" (sharded, with other shapes), "broken" (rank 1 cannot write its shards of step 2),
"mixed" (with a large tensor that is not sharded, whose averages change before the step), "odd" (rank 1 cannot save its
state of step 2), "flip" (changes a bit in the newest shard of rank 1). Places are below the URL in SHARDED_AT, or below
the directory.
"""

import json
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import torchrun_trainer.snapshots.sharded  # noqa: F401 (once, before the forks)
from torchrun_trainer import Run, SnapshotError, snapshot
from torchrun_trainer.snapshots.place import place
from torchrun_trainer.snapshots.saver import Saver


def first_weight(model: torch.nn.Sequential) -> torch.Tensor:
    return next(model.parameters()).detach()


class Extra:
    """A state of the user's own, with a sharded tensor in it."""

    def __init__(self, model: torch.nn.Sequential, seen: int) -> None:
        self.values: dict[str, Any] = {"seen": seen, "average": [first_weight(model).clone()]}

    def state_dict(self) -> dict[str, Any]:
        return self.values

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.values = dict(state)


def train(kind: str, total: int, location: str) -> dict[str, object]:
    torch.manual_seed(0)
    width = 8 if kind == "wide" else 7
    model = torch.nn.Sequential(torch.nn.Linear(5, width), torch.nn.ReLU(), torch.nn.Linear(width, 3))
    if kind != "plain":
        fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    table = torch.nn.Parameter(torch.ones(1 << 18))
    if kind == "mixed":
        optimizer.add_param_group({"params": [table]})
    extra = Extra(model, 0)
    run = Run(location, snapshot_every=2, model=model, optimizer=optimizer, extra=extra)
    began = run.step
    if kind == "broken" and run.rank == 1:
        break_writing(run)
    for step in run.steps(total):
        for average in optimizer.state.get(table, {}).values():
            average.mul_(1)
        if kind == "odd" and run.rank == 1:
            extra.values["odd"] = object() if step == 1 else step
        loss = model(torch.ones(4, 5) * (step + 1)).square().mean() + table[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        extra.values["seen"] += 1
        extra.values["average"][0] += first_weight(model)
        if run.step % 2 == 0 and isinstance(run._saver, Saver):
            run._saver.finish()  # as if the training were much slower than the disk
    return {"began": began, "seen": extra.values["seen"], "sums": [total_of(t) for t in tensors(model, extra)]}


def break_writing(run: Run) -> None:
    assert isinstance(run._saver, Saver)
    storage = run._saver._place.storage
    real = storage.open

    def fail(name: str, mode: str) -> Any:
        if mode == "wb" and "-000000000002-" in name:
            raise OSError(28, "No space left on device")
        return real(name, mode)

    storage.open = fail  # type: ignore[method-assign]


def tensors(model: torch.nn.Sequential, extra: Extra) -> list[torch.Tensor]:
    return [*model.parameters(), *extra.values["average"]]


def total_of(tensor: torch.Tensor) -> float:
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return float(whole.detach().abs().sum().item())


def rank_of_phase(kind: str, rank: int, ranks: int, total: int, location: str, store: Path) -> None:
    if kind != "plain":
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    try:
        result = train(kind, total, location)
    except SnapshotError as error:
        result = {"error": str(error)}
    if rank == 0 or "error" in result:
        sys.stdout.write(f"{json.dumps({**result, 'phase': store.name, 'rank': rank})}\n")
    if kind != "plain":
        dist.destroy_process_group()


def flip(location: str) -> None:
    newest = snapshot.available(location)[0]
    storage, shard = place(location).storage, f"{newest.shards}/__1_0.distcp"
    data = bytearray(storage.get(shard) or b"")
    data[len(data) // 2] ^= 1
    with storage.open(shard, "wb") as file:
        file.write(bytes(data))


def forked(*arguments: Any) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        rank_of_phase(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main(directory: Path, phases: list[str]) -> None:
    torch.set_num_threads(1)
    for number, phase in enumerate(phases):
        kind, ranks, total, place = phase.split(":")
        location = f"{os.environ.get('SHARDED_AT', directory)}/{place}"
        sys.stderr.write(f"PHASE {number}\n")
        sys.stderr.flush()
        if kind == "flip":
            flip(location)
            continue
        store = directory / str(number)
        children = [forked(kind, rank, int(ranks), int(total), location, store) for rank in range(int(ranks))]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        if any(codes):
            raise SystemExit(f"phase {phase} has failed: {codes}")
        kept = {found.step: found.shards for found in snapshot.available(location)}
        sys.stdout.write(f"{json.dumps({'phase': str(number), 'kept': kept})}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
