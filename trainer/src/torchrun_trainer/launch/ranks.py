"""Ranks: which rank this process has, and small exchanges among all ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist


def rank_and_size() -> tuple[int, int]:
    """Return this process's rank and the number of ranks; 0 and 1 without a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def collective_device() -> torch.device:
    """Return the device for small collectives: the CPU if the process group supports it, which waits for no GPU."""
    if dist.is_initialized() and "cpu:" not in dist.get_backend_config():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


class Ranks:
    """All ranks of the default process group. Every method is a collective: call it on all ranks.

    ``reached`` is the number of ranks in a collective.
    """

    def __init__(self) -> None:
        self.rank, self.size = rank_and_size()
        self.reached = self.size
        self.device = collective_device()

    def on_rank_0(self, action: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Run ``action`` on rank 0; return its result, or raise its exception, on all ranks."""
        outcome: list[Any] = [None, None]
        if self.rank == 0:
            try:
                outcome[0] = action()
            except Exception as problem:
                outcome[1] = problem
        if self.size > 1:
            dist.broadcast_object_list(outcome, src=0, device=self.device)
        result, error = outcome
        if error is not None:
            raise error
        return result

    def values(self, value: Any) -> list[Any]:  # noqa: ANN401
        """Return the values of all ranks, in the order of the ranks."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def values_on_rank_0(self, value: Any) -> list[Any]:  # noqa: ANN401
        """Return the values of all ranks on rank 0; what the other ranks get means nothing."""
        values = [value] * self.size
        if self.size > 1:
            dist.gather_object(value, values if self.rank == 0 else None, dst=0)
        return values

    def anywhere(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is true on any rank."""
        return [bool(flag) for flag in self.largest(flags)]

    def largest(self, numbers: Sequence[int]) -> list[int]:
        """Return the largest of each number over all ranks (32-bit integers), in one all-reduce."""
        if self.size == 1:
            return list(numbers)
        largest = torch.tensor(numbers, dtype=torch.int32, device=self.device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        found: list[int] = largest.tolist()
        return found

    def sums(self, numbers: Sequence[float]) -> list[float]:
        """Return the sum of each number over all ranks."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        found: list[float] = total.tolist()
        return found
