"""Checks: compares what torchrun has started with what the script needs, and says what to write instead."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass

import torch
import torch.distributed as dist

from torchrun_trainer.launch.ranks import rank_and_size

logger = logging.getLogger(__name__)


class LaunchError(RuntimeError):
    """The script does not fit the way it was started; the message says what to write instead."""


def check_launch(
    *,
    world_size: int | None = None,
    multiple_of: int = 1,
    divisor_of: int | None = None,
    at_least: int = 1,
    at_most: int | None = None,
) -> None:
    """Check the process group against torchrun's environment, and the world size against what the script needs.

    ``Run`` checks the process group itself. Call this on every rank, after ``init_process_group`` (a script in one
    process needs none). All arguments are numbers of workers: exactly ``world_size``, a multiple of ``multiple_of``,
    from ``at_least`` to ``at_most``, or a divisor of ``divisor_of`` (such as a batch). If the job's ``MIN:MAX`` nodes
    are known (``PET_NNODES``) and a resize may lead to a world size that the script refuses, rank 0 warns.

    Raises:
        LaunchError: there are several workers but no process group, or Accelerate does not know it, so that each would
            train alone; the process group is not the one that torchrun has started; this worker has no GPU of its own;
            the world size does not fit.

    """
    _check_process_group()
    _check_device()
    _check_accelerate()
    rank, size = rank_and_size()
    needs = _Needs(world_size, multiple_of, divisor_of, at_least, at_most)
    problem = needs.misfit(size)
    workers = _variable("LOCAL_WORLD_SIZE") or 1
    if problem:
        raise LaunchError(
            f"the world size is {size}, but this script needs {problem}: change the number of nodes (nnodes, replicas) "
            f"or of workers per node (nproc-per-node, now {workers})"
        )
    bounds = _nodes()
    if bounds and rank == 0:
        sizes = [nodes * workers for nodes in range(bounds[0], bounds[1] + 1)]
        refused = [one for one in sizes if needs.misfit(one)]
        if refused:
            some = ", ".join(map(str, refused[:5])) + (", …" if len(refused) > 5 else "")
            logger.warning("nnodes allows a world size of %s, but this script needs %s", some, needs.misfit(refused[0]))


@dataclass(frozen=True)
class _Needs:
    """The world sizes that a script supports."""

    world_size: int | None
    multiple_of: int
    divisor_of: int | None
    at_least: int
    at_most: int | None

    def misfit(self, size: int) -> str:
        """Return what a world of this size is not; an empty text if it fits."""
        if self.world_size is not None and size != self.world_size:
            return f"exactly {self.world_size} workers"
        if size % self.multiple_of:
            return f"a multiple of {self.multiple_of} workers"
        if self.divisor_of is not None and self.divisor_of % size:
            return f"a number of workers that divides {self.divisor_of}"
        if size < self.at_least:
            return f"at least {self.at_least} workers"
        if self.at_most is not None and size > self.at_most:
            return f"at most {self.at_most} workers"
        return ""


def _check_process_group() -> None:
    started, rank = _variable("WORLD_SIZE"), _variable("RANK")
    if not dist.is_initialized():
        if started is not None and started > 1:
            raise LaunchError(
                f"torchrun has started {started} workers, but there is no process group: each would train alone. Write "
                "torch.distributed.init_process_group() before Run(...) and anything else that needs all ranks"
            )
        return
    found = dist.get_world_size(), dist.get_rank()
    if started is not None and rank is not None and found != (started, rank):
        raise LaunchError(
            f"the process group has this worker as rank {found[1]} of {found[0]}, but torchrun has started it as "
            f"rank {rank} of {started}: write init_process_group() without rank and world_size, so that they come from "
            "RANK and WORLD_SIZE"
        )


def _check_device() -> None:
    """Check that a worker that uses NCCL has a GPU of its own; counting the GPUs initializes none."""
    local_rank = _variable("LOCAL_RANK")
    if local_rank is None or not dist.is_initialized() or "nccl" not in dist.get_backend_config():
        return
    visible, devices = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    if devices == 1 and visible and "," not in visible:
        return  # each worker may see only its own, as with --virtual-local-rank
    if 0 < devices <= local_rank:
        raise LaunchError(
            f"local rank {local_rank} has no GPU: {_variable('LOCAL_WORLD_SIZE')} workers were started on a node that "
            f"has {devices} (CUDA_VISIBLE_DEVICES is {visible!r}): write --nproc-per-node={devices}, in a "
            f"TorchrunJob nprocPerNode: {devices}, or give the container as many GPUs as it has workers"
        )


def _check_accelerate() -> None:
    """Check that Accelerate, if in use, knows the other workers: without a GPU it does not look for them."""
    state = sys.modules.get("accelerate.state")
    if state is None or not dist.is_initialized() or not state.is_initialized():
        return
    found, world_size = state.PartialState().num_processes, dist.get_world_size()
    if found != world_size:
        raise LaunchError(
            f"Accelerate knows of {found} process, but there are {world_size} workers: each would train alone. Without "
            "GPUs write Accelerator(cpu=True), for the transformers Trainer TrainingArguments(use_cpu=True)"
        )


def _nodes() -> tuple[int, int] | None:
    """Return MIN and MAX of PET_NNODES; None if it is no number and no range of numbers."""
    least, colon, most = os.environ.get("PET_NNODES", "").partition(":")
    if not least.isdecimal() or not (most if colon else least).isdecimal():
        return None
    largest = int(most) if colon else int(least)
    return (int(least), largest) if largest <= _MOST_NODES else (int(least), int(least))


_MOST_NODES = 10_000  # the operator gives agents a larger MAX than this, and keeps the real one itself


def _variable(name: str) -> int | None:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else None
