"""Sampling: gives a DataLoader this rank's shares of the batches, step by step, from any step on."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Sampler, default_collate, get_worker_info

from torchrun_trainer.launch.ranks import rank_and_size


class Batches(Protocol):
    """What sampling needs of GlobalBatches."""

    samples: int
    batch_size: int

    def epoch(self, step: int) -> int:
        """Return the epoch, from 0, that the first sample of a step belongs to."""

    def position(self, step: int) -> int:
        """Return how many samples come before a step."""

    def bounds(self, step: int, rank: int, world_size: int) -> tuple[int, int]:
        """Return the positions where a worker's share of a step begins and ends."""

    def share(self, step: int, rank: int, world_size: int) -> Tensor:
        """Return the indices of the samples that one worker takes in a step."""


def micro_batches(first: int, last: int, count: int) -> Iterator[tuple[int, int]]:
    """Split a share into ``count`` parts that differ in size by at most one; fewer if it has fewer samples."""
    count = min(count, last - first)
    for part in range(count):
        yield first + (last - first) * part // count, first + (last - first) * (part + 1) // count


class Shares:
    """The micro-batches of one rank: how many per step, and where in the stream of epochs each begins and ends.

    All ranks have the same number per step (models may have collectives in their forward pass), except where a share
    has fewer samples than that. The step to begin with and the rank lie in shared memory, for loader processes that
    persist.
    """

    def __init__(self, batches: Batches, micro_batch_size: int | None) -> None:
        if micro_batch_size is not None and micro_batch_size < 1:
            raise ValueError(f"micro_batch_size is {micro_batch_size}; it must be at least 1")
        self.batches = batches
        self._micro_batch_size = micro_batch_size
        self._range = torch.tensor([0, sys.maxsize, 0, 1]).share_memory_()  # type: ignore[no-untyped-call]
        self._place(*rank_and_size())

    def begin(self, step: int, stop: int, rank: int, world_size: int) -> None:
        """Make the next iteration begin with ``step`` and end before ``stop``, with the shares of this rank.

        Raises ValueError if there are too many workers for the batches.
        """
        self._range[0], self._range[1] = step, stop
        if (rank, world_size) != (self.rank, self.world_size):
            self._place(rank, world_size)

    def of(self, step: int) -> list[tuple[int, int]]:
        """Return the positions where each micro-batch of a step begins and ends."""
        start = self.batches.position(step)
        return [(start + begin, start + end) for begin, end in self._parts]

    def steps(self) -> range:
        """Return the steps of the next iteration. Call it where that iterates: a process of the loader may be older."""
        first, stop, rank, world_size = self._range.tolist()
        if (rank, world_size) != (self.rank, self.world_size):
            self._place(rank, world_size)
        return range(first, stop)

    def _place(self, rank: int, world_size: int) -> None:
        first, last = (end - self.batches.position(0) for end in self.batches.bounds(0, rank, world_size))
        largest = -(-self.batches.batch_size // world_size)
        self.rank, self.world_size = rank, world_size
        self._range[2], self._range[3] = rank, world_size
        self.count = -(-largest // self._micro_batch_size) if self._micro_batch_size else 1
        self._parts = list(micro_batches(first, last, self.count))  # of each step, counted from its beginning
        self.sizes = [end - begin for begin, end in self._parts]


class ShareSampler(Sampler[list[int]]):
    """Yields the indices of this rank's micro-batches from the current step of ``Run`` on; made by ``sampler``.

    The position depends on the step only, so a restart loses nothing that a loader has read ahead.
    """

    def __init__(self, batches: Batches, micro_batch_size: int | None = None) -> None:
        self.shares = Shares(batches, micro_batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        shares = self.shares
        for step in shares.steps():
            indices = shares.batches.share(step, shares.rank, shares.world_size).tolist()
            first = 0
            for size in shares.sizes:
                yield indices[first : first + size]
                first += size


class ShareStream(IterableDataset[Any]):
    """Yields this rank's micro-batches, collated, of a source that can only be read in order; made by ``stream``.

    ``iter(source)`` must yield the samples of an epoch, in the same order every time and in every process. The source
    must not divide itself among ranks or loader workers: this class does. If the source has a method
    ``set_epoch(epoch)``, it is called before each epoch, to shuffle by.

    Each loader worker of each rank reads the whole source and drops the samples of the others; after a restart it reads
    and drops the samples before the step. If the source has a method ``start_at(index)``, which returns an iterator
    from that sample of the epoch on, it is called instead. Dropping costs little if ``collate_fn`` does the decoding.

    Raises:
        ValueError: the source has fewer or more samples in an epoch than GlobalBatches was given.

    """

    def __init__(
        self,
        batches: Batches,
        source: Iterable[Any],
        micro_batch_size: int | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        self.shares = Shares(batches, micro_batch_size)
        self._source = source
        self._collate = collate_fn or default_collate

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        return self.micro_batches(info.id, info.num_workers) if info else self.micro_batches(0, 1)

    def micro_batches(self, worker: int, workers: int) -> Iterator[Any]:
        """Yield those of one loader worker: a DataLoader takes one from each worker in turn, from the first on."""
        parts = (part for step in self.shares.steps() for part in self.shares.of(step))
        reader = _Reader(self._source, self.shares.batches.samples)
        for first, last in itertools.islice(parts, worker, None, workers):
            yield self._collate([reader.read(position) for position in range(first, last)])


class _Reader:
    """Reads samples of a stream of epochs by their positions, which must ascend."""

    def __init__(self, source: Iterable[Any], samples: int) -> None:
        self._source = source
        self._samples = samples
        self._epoch = -1
        self._next = 0
        self._iterator: Iterator[Any] = iter(())

    def read(self, position: int) -> Any:  # noqa: ANN401
        epoch, index = divmod(position, self._samples)
        if epoch != self._epoch:
            self._open(epoch, index)
        skipped = sum(1 for _ in itertools.islice(self._iterator, index - self._next))
        for sample in itertools.islice(self._iterator, 1):
            self._next = index + 1
            if self._next == self._samples:
                self._expect_end()
            return sample
        raise ValueError(
            f"epoch {epoch} ended after {self._next + skipped} samples, but GlobalBatches was given {self._samples}; "
            "does the source divide itself among ranks or loader workers?"
        )

    def _open(self, epoch: int, index: int) -> None:
        if hasattr(self._source, "set_epoch"):
            self._source.set_epoch(epoch)
        self._epoch = epoch
        if hasattr(self._source, "start_at"):
            self._iterator, self._next = iter(self._source.start_at(index)), index
        else:
            self._iterator, self._next = iter(self._source), 0

    def _expect_end(self) -> None:
        for _ in itertools.islice(self._iterator, 1):
            raise ValueError(
                f"epoch {self._epoch} has more samples than the {self._samples} that GlobalBatches was given"
            )


def shares_of(loader: DataLoader[Any]) -> Shares:
    """Return the shares that a loader yields.

    Raises:
        TypeError: the loader was not made with ``sampler()`` or ``stream()``.
        ValueError: the loader does not yield them in order, or its dataset has another number of samples.

    """
    if not getattr(loader, "in_order", True):
        raise ValueError("DataLoader(…, in_order=False) mixes up the steps")
    if isinstance(loader.dataset, ShareStream):
        if loader.batch_size is not None:
            raise ValueError("a stream yields whole batches: DataLoader(batches.stream(…), batch_size=None)")
        return loader.dataset.shares
    if not isinstance(loader.batch_sampler, ShareSampler):
        raise TypeError(
            "the loader needs the sampler of GlobalBatches: DataLoader(dataset, batch_sampler=batches.sampler()), "
            "or DataLoader(batches.stream(source), batch_size=None)"
        )
    shares = loader.batch_sampler.shares
    samples = len(loader.dataset)  # type: ignore[arg-type]
    if samples != shares.batches.samples:
        raise ValueError(f"the dataset has {samples} samples, but GlobalBatches was given {shares.batches.samples}")
    return shares
