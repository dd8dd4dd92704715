"""Each sample comes exactly once per epoch, despite interruptions, resizes and loaders that read ahead."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any
from unittest import mock

import hypothesis
import pytest
import torch
import torch.distributed as dist
from hypothesis import example, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from torchrun_trainer import GlobalBatches
from torchrun_trainer.data.sampling import Shares, ShareStream, shares_of


class Numbers:
    """Counts from 0 to n-1, from any number on."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.read = 0

    def __iter__(self) -> Iterator[int]:
        return self.start_at(0)

    def start_at(self, index: int) -> Iterator[int]:
        for number in range(index, self.samples):
            self.read += 1
            yield number


class Shuffled:
    """The same in an order that depends on the epoch, and from the beginning only."""

    def __init__(self, samples: int) -> None:
        self.order = list(range(samples))

    def set_epoch(self, epoch: int) -> None:
        generator = torch.Generator().manual_seed(epoch)
        self.order = torch.randperm(len(self.order), generator=generator).tolist()

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)


def as_rank(rank: int, world_size: int) -> Any:
    """Make this process one rank of many."""
    return mock.patch.multiple(
        dist,
        is_initialized=mock.Mock(return_value=True),
        get_rank=mock.Mock(return_value=rank),
        get_world_size=mock.Mock(return_value=world_size),
    )


Interruption = tuple[int, int, int, int | None]
"""World size, steps until it ends, samples read ahead by loaders, and of a kill: steps since the last snapshot."""

interruptions = st.lists(
    st.tuples(st.integers(1, 6), st.integers(0, 9), st.integers(0, 3), st.none() | st.integers(0, 5)), max_size=12
)


def begin(
    batches: GlobalBatches, kind: str, micro: int | None, world: int, step: int
) -> list[tuple[Shares, Iterator[Any]]]:
    """Return what each rank gets from a step on."""
    ranks: list[tuple[Shares, Iterator[Any]]] = []
    for rank in range(world):
        with as_rank(rank, world):
            if kind == "map":
                sampler = batches.sampler(micro)
                sampler.shares.begin(step, 10**9, rank, world)
                ranks.append((sampler.shares, iter(sampler)))
            else:
                source: Iterable[int] = Numbers(batches.samples) if kind == "seek" else Shuffled(batches.samples)
                stream = batches.stream(source, micro, list)
                stream.shares.begin(step, 10**9, rank, world)
                ranks.append((stream.shares, in_turn(stream, 1 + rank % 3)))
    return ranks


def in_turn(stream: ShareStream, workers: int) -> Iterator[Any]:
    """Yield what a DataLoader with this number of workers yields."""
    readers = itertools.cycle([stream.micro_batches(worker, workers) for worker in range(workers)])
    return (next(reader) for reader in readers)


@settings(max_examples=1000, deadline=None, derandomize=True)
@hypothesis.given(
    samples=st.integers(6, 40),
    batch_size=st.integers(6, 50),
    micro=st.none() | st.integers(1, 9),
    kind=st.sampled_from(["map", "seek", "stream"]),
    scaled=st.booleans(),
    schedule=interruptions,
    seed=st.integers(0, 5),
)
@example(samples=6, batch_size=6, micro=1, kind="map", scaled=False, schedule=[(6, 3, 1, 2)], seed=0)
def test_each_sample_counts_once_per_epoch(
    samples: int, batch_size: int, micro: int | None, kind: str, scaled: bool, schedule: list[Interruption], seed: int
) -> None:
    """``counted`` holds the samples of the steps that were not rolled back, as the snapshots have them."""
    counted: list[list[int]] = []
    state: dict[str, int] | None = None
    for world, steps, ahead, lost in [*schedule, (1, 10**9, 0, None)]:
        size = max(batch_size // 6, 1) * world if scaled else batch_size
        batches = GlobalBatches(samples, size, seed, accept=("batch_size",) if scaled else ())
        first = len(counted)
        if state is not None:
            batches.load_state_dict(state)
        batches.resume(first)
        last = min(first + steps, max(batches.steps(2), first))
        ranks = begin(batches, kind, micro, world, first)
        for _step in range(first, last):
            counted.append([])
            for shares, given in ranks:
                taken = [next(given) for _ in shares.sizes]
                assert [len(part) for part in taken] == shares.sizes
                assert all(micro is None or len(part) <= micro for part in taken)
                counted[-1] += itertools.chain.from_iterable(taken)
            assert len(counted[-1]) == size
        for _shares, given in ranks:
            list(itertools.islice(given, ahead))  # read ahead, and lost
        if lost is None or last - first >= lost:
            del counted[len(counted) - (lost or 0) :]
            state = batches.state_dict()  # of a snapshot, now or some steps ago
        else:
            del counted[first:]
    stream = list(itertools.chain.from_iterable(counted))
    for epoch in range(2):
        assert Counter(stream[epoch * samples : (epoch + 1) * samples]) == Counter(range(samples))


def load_all(loader: DataLoader[Any], first: int, stop: int, place: tuple[int, int] | None = None) -> list[list[int]]:
    shares = shares_of(loader)
    shares.begin(first, stop, *(place or (shares.rank, shares.world_size)))
    return [batch.tolist() for batch in loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_whose_processes_persist_learns_its_rank(workers: int) -> None:
    batches = GlobalBatches(20, 8, seed=1)
    options: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
    loader: DataLoader[Any] = DataLoader(torch.arange(20), batch_sampler=batches.sampler(), **options)  # type: ignore[arg-type]
    for place in ((0, 1), (1, 2), (2, 3), (0, 1)):
        expected = [batches.share(step, *place).tolist() for step in (3, 4)]
        assert load_all(loader, 3, 5, place) == expected


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("kind", ["map", "seek", "stream"])
def test_a_real_loader_yields_the_steps_in_order(kind: str, workers: int) -> None:
    batches = GlobalBatches(20, 8, seed=1)
    options: dict[str, Any] = {"num_workers": workers}
    if workers:
        options |= {"prefetch_factor": 3, "persistent_workers": True}
    with as_rank(1, 2):
        if kind == "map":
            data = TensorDataset(torch.arange(20))
            loader = DataLoader(data, batch_sampler=batches.sampler(2), collate_fn=first_column, **options)
        else:
            source: Iterable[int] = Numbers(20) if kind == "seek" else Shuffled(20)
            loader = DataLoader(batches.stream(source, 2), batch_size=None, **options)
    whole = load_all(loader, 0, 5)
    assert [len(batch) for batch in whole] == [2] * 10
    if kind == "map":
        expected = [batches.share(step, 1, 2).tolist() for step in range(5)]
        assert [first + second for first, second in zip(whole[::2], whole[1::2], strict=True)] == expected
    if kind == "seek":
        assert whole[:6] == [[4, 5], [6, 7], [12, 13], [14, 15], [0, 1], [2, 3]]
    assert load_all(loader, 2, 4) == whole[4:8]  # with the same processes, if they persist


def first_column(rows: list[tuple[torch.Tensor]]) -> torch.Tensor:
    return torch.stack([row[0] for row in rows])


def test_a_source_that_can_seek_is_not_read_from_the_beginning() -> None:
    source = Numbers(1000)
    loader = DataLoader(GlobalBatches(1000, 10).stream(source), batch_size=None)
    assert load_all(loader, 90, 92) == [list(range(900, 910)), list(range(910, 920))]
    assert source.read == 20


@pytest.mark.parametrize(
    ("samples", "given", "message"),
    [
        (9, 12, "epoch 0 ended after 9 samples, but GlobalBatches was given 12; does the source divide itself"),
        (13, 12, "epoch 0 has more samples than the 12 that GlobalBatches was given"),
    ],
)
@pytest.mark.parametrize("first", [0, 2])
def test_a_source_of_another_length_is_an_error(samples: int, given: int, message: str, first: int) -> None:
    loader = DataLoader(GlobalBatches(given, 4).stream(list(range(samples))), batch_size=None)
    with pytest.raises(ValueError, match=message):
        load_all(loader, first, 4)


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        (
            lambda: DataLoader(TensorDataset(torch.arange(6)), batch_size=2),
            TypeError,
            "the loader needs the sampler of GlobalBatches",
        ),
        (
            lambda: DataLoader(TensorDataset(torch.arange(6)), batch_sampler=GlobalBatches(5, 2).sampler()),
            ValueError,
            "the dataset has 6 samples, but GlobalBatches was given 5",
        ),
        (
            lambda: DataLoader(GlobalBatches(5, 2).stream(range(5)), batch_size=2),
            ValueError,
            "a stream yields whole batches: ",
        ),
        (
            lambda: DataLoader(GlobalBatches(5, 2).stream(range(5)), batch_size=None, num_workers=1, in_order=False),
            ValueError,
            "mixes up the steps",
        ),
        (lambda: GlobalBatches(5, 2).sampler(0), ValueError, "micro_batch_size is 0; it must be at least 1"),
    ],
)
def test_a_loader_that_cannot_be_exact_is_refused(loader: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        shares_of(loader())


def test_more_workers_than_samples_are_refused_before_training() -> None:
    with as_rank(0, 3), pytest.raises(ValueError, match="a batch of 2 cannot be shared by 3 workers"):
        GlobalBatches(10, 2).sampler()


def test_batches_per_worker_grow_with_the_world() -> None:
    assert GlobalBatches.per_worker(100, 8).batch_size == 8
    with as_rank(0, 3):
        assert GlobalBatches.per_worker(100, 8).batch_size == 24
