"""Rates: the learning rate for a batch that grows and shrinks with the number of workers."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch.optim import Optimizer


def scale_learning_rate(
    optimizer: Optimizer, batch_size: int, reference: int, rule: Literal["linear", "sqrt"] = "linear"
) -> float:
    """Make the optimizer step with its learning rates times k or √k, where k = ``batch_size / reference``.

    ``linear`` keeps the contribution of a sample to the weights (Goyal et al. 2017, arXiv:1706.02677, section 2.1; they
    raise the rate gradually over the first epochs, which a scheduler can do). ``sqrt`` keeps the variance of a step
    (Krizhevsky 2014, arXiv:1404.5997, section 5).

    The rates are scaled only during ``optimizer.step()``. So schedulers and snapshots see the rates for the reference
    batch, and a restart with another number of workers scales them for its own batch. Call this once per process.

    Args:
        optimizer: an optimizer whose groups have an ``lr``.
        batch_size: samples per step now.
        reference: samples per step that the rates were chosen for.
        rule: "linear" or "sqrt".

    Returns:
        The factor.

    Raises:
        ValueError: a batch is smaller than 1, or the rule is unknown.

    """
    if batch_size < 1 or reference < 1:
        raise ValueError(f"batch_size ({batch_size}) and reference ({reference}) must be at least 1")
    if rule not in ("linear", "sqrt"):
        raise ValueError(f"rule is {rule!r}; it must be 'linear' or 'sqrt'")
    factor = batch_size / reference if rule == "linear" else math.sqrt(batch_size / reference)
    rates: list[Any] = []

    def before(optimizer: Optimizer, *_: object) -> None:
        put_back(optimizer)  # a step that failed has not done it
        rates.extend(group["lr"] for group in optimizer.param_groups)
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * factor

    def put_back(optimizer: Optimizer, *_: object) -> None:
        for group, rate in zip(optimizer.param_groups, rates, strict=False):
            group["lr"] = rate
        rates.clear()

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(put_back)
    return factor
