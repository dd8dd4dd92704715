"""Guards: what a script calls on its own objects waits for the vote, so that the script stays as it is."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from torchrun_trainer.launch.checks import LaunchError
from torchrun_trainer.per_step.gradients import average
from torchrun_trainer.per_step.quorum import Quorum


def guard(state: Iterable[object], quorum: Quorum) -> None:
    """Average the gradients of the models over the groups; optimizers and schedulers step only if the step counts.

    Raises LaunchError if ``state`` has no model of DistributedDataParallel or no optimizer: nothing would be averaged,
    or steps would be taken that do not count.
    """
    objects = list(state)
    models = [one for one in objects if isinstance(one, DistributedDataParallel)]
    optimizers = [one for one in objects if isinstance(one, Optimizer)]
    if not models or not optimizers:
        lacks = "model wrapped in DistributedDataParallel" if not models else "optimizer"
        raise LaunchError(f"recovery step by step needs the {lacks} in the state: Run(model=..., optimizer=...)")
    for model in models:
        average(model, quorum)
    for optimizer in optimizers:
        _guard_optimizer(optimizer, quorum)
    for one in objects:
        if isinstance(one, LRScheduler):
            _guard_scheduler(one, quorum)
        elif isinstance(one, GradScaler):
            _guard_scaler(one, quorum)


def _guard_optimizer(optimizer: Optimizer, quorum: Quorum) -> None:
    original = optimizer.step

    # With the marks of the original: schedulers look for their own.
    @functools.wraps(original)
    def step(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        if arguments or options:
            raise LaunchError("recovery step by step needs optimizer.step() without a closure")
        return original() if quorum.committed() else None

    optimizer.step = step  # type: ignore[method-assign]


def _guard_scheduler(scheduler: LRScheduler, quorum: Quorum) -> None:
    """Override ``step`` in a class of its own: all attributes of a scheduler belong to its state."""
    kind = type(scheduler)

    def step(self: LRScheduler, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        if not quorum.averaged or quorum.committed():
            kind.step(self, *arguments, **options)

    scheduler.__class__ = type(kind.__name__, (kind,), {"step": step, "__module__": kind.__module__})


def _guard_scaler(scaler: GradScaler, quorum: Quorum) -> None:
    """Let a step that does not count leave the scale as it is: other nodes may have seen other gradients."""
    kind = type(scaler)

    def update(self: GradScaler, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        before = self.state_dict()
        kind.update(self, *arguments, **options)
        if not quorum.committed():
            self.load_state_dict(before)

    scaler.__class__ = type(kind.__name__, (kind,), {"update": update, "__module__": kind.__module__})
