"""Batches: which samples belong to which step, whatever the number of workers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from torchrun_trainer.data.sampling import ShareSampler, ShareStream
from torchrun_trainer.launch.fault_tolerance import refuse
from torchrun_trainer.launch.ranks import rank_and_size

_IDENTITY = ("samples", "batch_size", "seed")


@dataclass
class GlobalBatches:
    """Cuts an endless stream of shuffled epochs into batches of constant size; a pure function of seed and step.

    Every sample comes once per epoch; a batch may end one epoch and begin the next. After a restart with another number
    of workers, step ``n`` still has the same samples, so none is skipped or repeated. An epoch has the order of
    ``torch.utils.data.DistributedSampler`` with the same seed.

    Give it to ``Run`` as state. A snapshot then holds how the batches were made, and a restart with another number of
    samples, batch size or seed is an error unless ``accept`` names it. After an accepted change of the batch size the
    training continues behind the last sample taken, so that each sample still comes once. After an accepted change of
    the samples or the seed a new epoch begins, and the rest of the old one is skipped.

    Args:
        samples: the number of samples in an epoch.
        batch_size: samples per step, over all workers.
        seed: of the shuffling.
        accept: which of "samples", "batch_size" and "seed" may differ from the snapshot.

    Raises:
        ValueError: ``samples`` or ``batch_size`` is less than 1, or ``accept`` names something else.

    """

    samples: int
    batch_size: int
    seed: int = 0
    accept: Collection[str] = ()
    _first_step: int = field(default=0, init=False)
    _first_position: int = field(default=0, init=False)
    _last_position: int = field(default=0, init=False)
    _saved: dict[str, int] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.samples < 1 or self.batch_size < 1:
            raise ValueError(f"samples ({self.samples}) and batch_size ({self.batch_size}) must be at least 1")
        if unknown := set(self.accept) - set(_IDENTITY):
            raise ValueError(f"accept names {sorted(unknown)}; it may name {', '.join(_IDENTITY)}")

    @classmethod
    def per_worker(cls, samples: int, batch_size: int, seed: int = 0) -> GlobalBatches:
        """Return batches of ``batch_size`` samples per worker, which grow and shrink with the world size.

        The position in the data stays exact. Adapt the learning rate with ``scale_learning_rate``.
        """
        refuse("GlobalBatches.per_worker")
        _, world_size = rank_and_size()
        return cls(samples, batch_size * world_size, seed, accept=("batch_size",))

    def epoch(self, step: int) -> int:
        """Return the epoch, from 0, that the first sample of a step belongs to."""
        return self.position(step) // self.samples

    def position(self, step: int) -> int:
        """Return how many samples come before a step.

        Before an accepted change only the last step is known.
        """
        if step < self._first_step:
            return self._last_position
        return self._first_position + (step - self._first_step) * self.batch_size

    def steps(self, epochs: int) -> int:
        """Return how many steps it takes to see every sample ``epochs`` times."""
        return self._first_step + max(0, -(-(epochs * self.samples - self._first_position) // self.batch_size))

    def bounds(self, step: int, rank: int, world_size: int) -> tuple[int, int]:
        """Return the positions in the stream of epochs where a worker's share of a step begins and ends.

        Raises ValueError if there are more workers than samples in a batch or an epoch, no workers, or no such rank.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"there is no rank {rank} among {world_size} workers")
        if world_size > self.batch_size:
            raise ValueError(f"a batch of {self.batch_size} cannot be shared by {world_size} workers")
        if world_size > self.samples:
            raise ValueError(f"{self.samples} samples cannot be shared by {world_size} workers")
        start = self.position(step)
        return start + self.batch_size * rank // world_size, start + self.batch_size * (rank + 1) // world_size

    def share(self, step: int, rank: int, world_size: int) -> Tensor:
        """Return the indices of the samples that one worker takes in a step (shares differ in size by at most one).

        Shares differ in size, and DistributedDataParallel averages over workers. So sum the loss over the share and
        multiply it by ``world_size / batch_size``, as ``Run.weigh`` does: the gradient then is that of the mean over
        the whole batch.
        Raises ValueError as ``bounds`` does.
        """
        first, last = self.bounds(step, rank, world_size)
        pieces = []
        while first < last:
            epoch, offset = divmod(first, self.samples)
            taken = min(last - first, self.samples - offset)
            pieces.append(_permutation(self.samples, self.seed, epoch)[offset : offset + taken])
            first += taken
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def sampler(self, micro_batch_size: int | None = None) -> ShareSampler:
        """Return the ``batch_sampler`` for a DataLoader over a map-style dataset.

        ``micro_batch_size`` is how many samples fit into memory at a time. A larger share is split; go through the
        parts with ``Run.accumulate``.
        """
        return ShareSampler(self, micro_batch_size)

    def stream(
        self,
        source: Iterable[Any],
        micro_batch_size: int | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> ShareStream:
        """Return a dataset for ``DataLoader(…, batch_size=None)`` that takes this rank's samples from a stream.

        The order is that of ``source``, whatever the ``seed``; see ``ShareStream``.
        """
        return ShareStream(self, source, micro_batch_size, collate_fn)

    def state_dict(self) -> dict[str, int]:
        """Return how the batches are made, and from which step and position on."""
        identity = {name: getattr(self, name) for name in _IDENTITY}
        return {
            **identity,
            "first_step": self._first_step,
            "first_position": self._first_position,
            "last_position": self._last_position,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where the saved batches are; ``resume`` has to follow.

        Raises ValueError if these batches are made in another way, unless ``accept`` names the difference.
        """
        changed = [name for name in _IDENTITY if state[name] != getattr(self, name)]
        if refused := [name for name in changed if name not in self.accept]:
            differences = ", ".join(f"{name} was {state[name]} and is {getattr(self, name)}" for name in refused)
            raise ValueError(
                f"the snapshot is of other batches: {differences}; restore the old values, start over in another "
                f"snapshot_path, or accept the change: GlobalBatches(…, accept={refused})"
            )
        self._first_step, self._first_position = state["first_step"], state["first_position"]
        self._last_position = state["last_position"]
        self._saved = {name: state[name] for name in _IDENTITY} if changed else None

    def resume(self, step: int) -> None:
        """Continue at this step behind the samples that the saved batches had taken (``Run`` calls this)."""
        if self._saved is None:
            return
        saved, self._saved = self._saved, None
        position = self._first_position + (step - self._first_step) * saved["batch_size"]
        last = position - saved["batch_size"] if step > self._first_step else self._last_position
        if (saved["samples"], saved["seed"]) != (self.samples, self.seed):
            last = last // saved["samples"] * self.samples
            position = -(-position // saved["samples"]) * self.samples
        self._first_step, self._first_position, self._last_position = step, position, last


@functools.lru_cache(maxsize=2)
def _permutation(samples: int, seed: int, epoch: int) -> Tensor:
    """Shuffle an epoch. Every step asks for it, so the two in use are cached."""
    return torch.randperm(samples, generator=torch.Generator().manual_seed(seed + epoch))
