"""Batches: which samples belong to which step, whatever the number of workers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GlobalBatches:
    """Cuts an endless stream of shuffled epochs into batches of constant size; a pure function of seed and step.

    Every sample comes once per epoch; a batch may end one epoch and begin the next. After a restart with another number
    of workers step ``n`` still has the same samples, so none is left out or taken twice.
    """

    samples: int
    batch_size: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.batch_size < 1:
            raise ValueError(f"samples ({self.samples}) and batch_size ({self.batch_size}) must be at least 1")

    def epoch(self, step: int) -> int:
        """Return the epoch, from 0, that the first sample of a step belongs to."""
        return step * self.batch_size // self.samples

    def steps(self, epochs: int) -> int:
        """Return how many steps it takes to have seen every sample ``epochs`` times."""
        return -(-epochs * self.samples // self.batch_size)

    def share(self, step: int, rank: int, world_size: int) -> Tensor:
        """Return the indices of the samples that one worker takes in a step (shares differ in size by one at most).

        Since shares differ and DistributedDataParallel averages over workers, sum the loss over the share and multiply
        it by ``world_size / batch_size``: the gradient then is that of the whole batch's mean.
        Raises ValueError if there are more workers than samples in a batch.
        """
        if world_size > self.batch_size:
            raise ValueError(f"a batch of {self.batch_size} cannot be shared by {world_size} workers")
        start = step * self.batch_size
        first = start + self.batch_size * rank // world_size
        last = start + self.batch_size * (rank + 1) // world_size
        pieces = []
        while first < last:
            epoch, offset = divmod(first, self.samples)
            taken = min(last - first, self.samples - offset)
            pieces.append(self._permutation(epoch)[offset : offset + taken])
            first += taken
        return torch.cat(pieces)

    def _permutation(self, epoch: int) -> Tensor:
        """Shuffle an epoch; the one in use is remembered, since every step asks for it."""
        key = (self.samples, self.seed, epoch)
        if key not in _permutations:
            while len(_permutations) > 1:
                _permutations.pop(next(iter(_permutations)))
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            _permutations[key] = torch.randperm(self.samples, generator=generator)
        return _permutations[key]


_permutations: dict[tuple[int, int, int], Tensor] = {}
