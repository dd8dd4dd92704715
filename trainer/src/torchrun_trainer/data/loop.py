"""Loop: takes a run through epochs and batches, weighs the losses of uneven shares, and adds gradients up."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from torchrun_trainer.data.batches import GlobalBatches
from torchrun_trainer.data.sampling import Batches, Shares, shares_of


class Steps(Protocol):
    """What the loop needs of a stepper."""

    @property
    def rank(self) -> int:
        """The rank of this worker in the next step."""

    @property
    def world_size(self) -> int:
        """The number of workers in the next step."""

    @property
    def joins_late(self) -> bool:
        """Whether the first step may be another one than that of the snapshot."""

    @property
    def step(self) -> int:
        """The number of steps done."""

    def steps(self, total_steps: int) -> Generator[int]:
        """Yield the number of each step still to do."""

    def report(self, *, loss: Tensor | None, samples: int, epoch: int) -> None:
        """Report how the current step went."""


class MicroBatches:
    """The share of this rank in one step: iterate over the micro-batches once, to the end, and weigh each loss."""

    def __init__(self, loop: Loop, iterator: Iterator[Any], weights: list[float]) -> None:
        self._loop = loop
        self._iterator = iterator
        self._weights = weights
        self.done = 0

    def __len__(self) -> int:
        return len(self._weights)

    def __iter__(self) -> Iterator[Any]:
        for weight in self._weights[self.done :]:
            batch = next(self._iterator)
            last = self.done == len(self._weights) - 1
            with contextlib.nullcontext() if last else self._loop.unsynchronized():
                self._loop.weight = weight
                yield batch
            self._loop.weight = None
            self.done += 1


class _Next(NamedTuple):
    """A share: of which step, which rank and how many workers."""

    step: int
    rank: int
    world_size: int


class _Feed(NamedTuple):
    """What a loader yields, in order, and which share comes next."""

    loader: DataLoader[Any]
    iterator: Iterator[Any]
    next: _Next


class Loop:
    """Goes through the batches of a run: taking a share begins a step, and asking for the next share ends it."""

    def __init__(self, stepper: Steps, state: Iterable[object]) -> None:
        objects = list(state)
        self.weight: float | None = None
        self._stepper = stepper
        self._known = [stateful for stateful in objects if isinstance(stateful, GlobalBatches)]
        self._models: list[Any] = [
            stateful
            for stateful in objects
            if hasattr(stateful, "no_sync") or hasattr(stateful, "set_requires_gradient_sync")
        ]
        self._steps: Iterator[int] | None = None
        self._begun = False
        self._total = 0
        self._epoch: int | None = None
        self._feed: _Feed | None = None
        self._loss: Tensor | None = None
        for batches in self._known:
            batches.resume(stepper.step)

    def epochs(self, total_epochs: int) -> Iterator[int]:
        """See ``Run.epochs``."""
        if len(self._known) != 1:
            raise ValueError("epochs() needs GlobalBatches in the state, once: Run(…, batches=batches)")
        (batches,) = self._known
        with self._stepping(batches.steps(total_epochs)):
            # From the epoch of the last step done: what follows the last step of an epoch may not have been done.
            for epoch in range(batches.epoch(max(0, self._stepper.step - 1)), total_epochs):
                self._epoch = epoch
                yield epoch
                if self._remains(batches):
                    raise RuntimeError(f"epoch {epoch} was left at step {self._stepper.step}, before its last")

    def batches(self, loader: DataLoader[Any], total_steps: int | None) -> Iterator[Any]:
        """See ``Run.batches``."""
        if self._shares(loader).count > 1:
            raise ValueError("micro_batch_size splits the shares of this loader: use run.accumulate(loader)")
        for micro_batches in self.accumulate(loader, total_steps):
            yield from micro_batches

    def accumulate(self, loader: DataLoader[Any], total_steps: int | None) -> Iterator[MicroBatches]:
        """See ``Run.accumulate``."""
        shares = self._shares(loader)
        if self._steps is not None and total_steps is None:
            yield from self._accumulate(loader, shares)
        elif self._steps is None and total_steps is not None:
            with self._stepping(total_steps):
                yield from self._accumulate(loader, shares)
        else:
            raise ValueError("give total_steps outside run.epochs(), and only there")

    def weigh(self, loss: Tensor) -> Tensor:
        """See ``Run.weigh``."""
        if self.weight is None:
            raise RuntimeError("weigh() is for the body of a loop over run.batches() or run.accumulate()")
        weighed = loss if self.weight == 1.0 else loss * self.weight
        self._loss = weighed.detach() if self._loss is None else self._loss + weighed.detach()
        return weighed

    @contextlib.contextmanager
    def unsynchronized(self) -> Iterator[None]:
        """Keep the gradients of the models on this rank."""
        with contextlib.ExitStack() as stack:
            for model in self._models:
                if hasattr(model, "no_sync"):
                    stack.enter_context(model.no_sync())
                else:  # FSDP2
                    model.set_requires_gradient_sync(False)
                    stack.callback(model.set_requires_gradient_sync, True)
            yield

    @contextlib.contextmanager
    def _stepping(self, total_steps: int) -> Iterator[None]:
        if self._steps is not None:
            raise ValueError("this run is already going through its epochs")
        steps = self._stepper.steps(total_steps)
        self._steps, self._total, self._begun = steps, total_steps, False
        if self._stepper.step >= total_steps:
            next(steps, None)  # writes the line of the start
        elif self._stepper.joins_late:
            self._begun = next(steps, None) is not None  # the epochs before are those of others
        try:
            yield
        finally:
            self._steps = self._epoch = self._feed = None
            steps.close()

    def _accumulate(self, loader: DataLoader[Any], shares: Shares) -> Iterator[MicroBatches]:
        assert self._steps is not None
        batches, stepper = shares.batches, self._stepper
        while self._remains(batches):
            wanted = self._next()
            iterator = self._iterator(loader, shares, wanted)
            if not self._begun:  # only now: loaders fork, and the steps begin with starting threads
                self._begun = next(self._steps, None) is not None
                if self._next() != wanted:
                    continue
            step = wanted.step
            weights = [size * wanted.world_size / batches.batch_size for size in shares.sizes]
            micro_batches = MicroBatches(self, iterator, weights)
            yield micro_batches
            if micro_batches.done < len(micro_batches):
                raise RuntimeError(f"step {step} was left after {micro_batches.done} of {len(weights)} micro-batches")
            self._feed = _Feed(loader, iterator, wanted._replace(step=step + 1))
            stepper.report(loss=self._loss, samples=batches.batch_size, epoch=batches.epoch(step))
            self._loss = None
            next(self._steps, None)

    def _remains(self, batches: Batches) -> bool:
        """Return whether there are steps to do, within the epoch if there is one."""
        step = self._stepper.step
        return step < self._total and (self._epoch is None or batches.epoch(step) <= self._epoch)

    def _next(self) -> _Next:
        return _Next(self._stepper.step, self._stepper.rank, self._stepper.world_size)

    def _iterator(self, loader: DataLoader[Any], shares: Shares, wanted: _Next) -> Iterator[Any]:
        """Return the loader's iterator from this share on. It continues across epochs, so that it can read ahead."""
        if self._feed and self._feed.loader is loader and self._feed.next == wanted:
            return self._feed.iterator
        self._feed = None
        shares.begin(wanted.step, self._total, wanted.rank, wanted.world_size)
        return iter(loader)

    def _shares(self, loader: DataLoader[Any]) -> Shares:
        shares = shares_of(loader)
        if not any(batches is shares.batches for batches in self._known):
            raise ValueError("the loader's GlobalBatches must be in the state: Run(…, batches=batches)")
        smallest = shares.batches.batch_size // shares.world_size
        if shares.count > smallest and not all(isinstance(model, DistributedDataParallel) for model in self._models):
            raise ValueError(
                "FSDP needs the same number of micro-batches on all ranks, but a batch of "
                f"{shares.batches.batch_size} on {shares.world_size} workers cannot be split "
                "like that: use a micro_batch_size of at least 2"
            )
        return shares
