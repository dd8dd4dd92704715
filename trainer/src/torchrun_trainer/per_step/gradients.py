"""Gradients: averages those of a model over the replica groups at the end of each backward pass.

DistributedDataParallel averages in the group. It changes the order of its buckets after the first backward pass, so a
newcomer has others than its peers. Averaged over the groups are therefore the gradients themselves, in the order of
parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from torchrun_trainer.per_step.quorum import Quorum

_CHUNK_BYTES = 32 << 20


def average(model: DistributedDataParallel, quorum: Quorum) -> None:
    """Have this model's backward passes end with gradients that are averaged over the groups, too.

    Without synchronization (``no_sync``) they are not. Raises RuntimeError if the model has a communication hook.
    """
    averaged = _Averaged(model, quorum)
    # Without annotations: torch compares those of a hook with its own types, and these are strings.
    model.register_comm_hook(averaged, lambda averaged, bucket: averaged.reduce(bucket))


class _Averaged:
    def __init__(self, model: DistributedDataParallel, quorum: Quorum) -> None:
        self._quorum = quorum
        self._group = model.process_group
        self._parameters = [parameter for parameter in model.module.parameters() if parameter.requires_grad]

    def reduce(self, bucket: Any) -> torch.futures.Future[Tensor]:  # noqa: ANN401
        """Average a bucket in the group, and over the groups once DistributedDataParallel is done with all of them."""
        gradients, size = bucket.buffer(), self._group.size()
        if size > 1:
            dist.all_reduce(gradients, group=self._group)
            gradients /= size
        if bucket.is_last():
            # The callback of DistributedDataParallel, which fills the gradients, comes after this one, and before the
            # one that this one adds.
            _at_the_end(lambda: _at_the_end(self._average))
        future: torch.futures.Future[Tensor] = torch.futures.Future()
        future.set_result(gradients)
        return future

    def _average(self) -> None:
        with torch.no_grad():
            for chunk in _chunks(self._parameters):
                self._average_chunk(chunk)

    def _average_chunk(self, parameters: list[nn.Parameter]) -> None:
        """Average the gradients of some parameters in one all-reduce.

        A parameter that this group's samples do not use counts as zero. One that no group uses keeps its lack of one.
        """
        first = parameters[0]
        used = [0.0 if parameter.grad is None else 1.0 for parameter in parameters]
        parts = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
        marks = torch.tensor(used, dtype=first.dtype, device=first.device)
        block = torch.cat([*(part.flatten() for part in parts), marks])
        self._quorum.average(block)
        sizes = [part.numel() for part in parts]
        *averaged, marks = block.split([*sizes, len(used)])  # type: ignore[no-untyped-call]
        somewhere = marks.tolist() if 0.0 in used else used
        for parameter, values, wanted in zip(parameters, averaged, somewhere, strict=True):
            if parameter.grad is not None:
                parameter.grad.copy_(values.view_as(parameter))
            elif wanted:
                parameter.grad = values.view_as(parameter).clone()


def _at_the_end(action: Callable[[], None]) -> None:
    """Do something at the end of the backward pass that this is called in."""
    torch.autograd.Variable._execution_engine.queue_callback(action)  # noqa: SLF001 - as torch's own modules do


def _chunks(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Split parameters into lists of one type and device each, of limited size, in the same order everywhere."""
    kinds: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
    for parameter in parameters:
        kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    for same in kinds.values():
        chunk: list[nn.Parameter] = []
        size = 0
        for parameter in same:
            chunk.append(parameter)
            size += parameter.numel() * parameter.element_size()
            if size >= _CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
        if chunk:
            yield chunk
