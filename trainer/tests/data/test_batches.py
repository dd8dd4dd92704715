"""The samples of a step do not depend on the number of workers, and every epoch has each sample once."""

import re

import pytest
import torch
from torch.utils.data import DistributedSampler, TensorDataset

from torchrun_trainer import GlobalBatches


@pytest.mark.parametrize(("samples", "batch_size"), [(10, 4), (7, 7), (5, 12), (1437, 96)])
def test_shares_make_up_the_same_batch_for_any_number_of_workers(samples: int, batch_size: int) -> None:
    batches = GlobalBatches(samples, batch_size, seed=3)
    for step in range(6):
        whole = batches.share(step, 0, 1).tolist()
        assert len(whole) == batch_size
        for workers in range(2, 5):
            shares = [batches.share(step, rank, workers).tolist() for rank in range(workers)]
            assert [index for share in shares for index in share] == whole
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("samples", "batch_size"), [(10, 4), (7, 7), (5, 12)])
def test_every_epoch_has_each_sample_once_in_another_order(samples: int, batch_size: int) -> None:
    batches = GlobalBatches(samples, batch_size)
    epochs = 4
    stream = [index for step in range(batches.steps(epochs)) for index in batches.share(step, 0, 1).tolist()]
    orders = [tuple(stream[epoch * samples : (epoch + 1) * samples]) for epoch in range(epochs)]
    assert [sorted(order) for order in orders] == [list(range(samples))] * epochs
    assert len(set(orders)) > 1


def test_an_epoch_has_the_order_of_pytorchs_sampler() -> None:
    batches = GlobalBatches(20, 5, seed=7)
    theirs: DistributedSampler[object] = DistributedSampler(
        TensorDataset(torch.arange(20)), num_replicas=1, rank=0, seed=7
    )
    for epoch in range(3):
        theirs.set_epoch(epoch)
        ours = [index for step in range(4) for index in batches.share(4 * epoch + step, 0, 1).tolist()]
        assert ours == list(theirs)


def test_epoch_and_steps() -> None:
    batches = GlobalBatches(10, 4)
    assert [batches.epoch(step) for step in range(6)] == [0, 0, 0, 1, 1, 2]
    assert [batches.steps(epochs) for epochs in (0, 1, 2)] == [0, 3, 5]


def test_seeds_differ() -> None:
    assert GlobalBatches(100, 50, 1).share(0, 0, 1).tolist() != GlobalBatches(100, 50, 2).share(0, 0, 1).tolist()


@pytest.mark.parametrize(
    ("samples", "batch_size", "rank", "world_size", "message"),
    [
        (0, 1, 0, 1, "samples (0) and batch_size (1) must be at least 1"),
        (1, 0, 0, 1, "samples (1) and batch_size (0) must be at least 1"),
        (10, 2, 0, 3, "a batch of 2 cannot be shared by 3 workers"),
        (2, 10, 0, 3, "2 samples cannot be shared by 3 workers"),
        (10, 2, 0, 0, "there is no rank 0 among 0 workers"),
        (10, 2, 2, 2, "there is no rank 2 among 2 workers"),
    ],
)
def test_mistakes_are_named(samples: int, batch_size: int, rank: int, world_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        GlobalBatches(samples, batch_size).share(0, rank, world_size)


def test_what_is_to_be_accepted_must_exist() -> None:
    with pytest.raises(ValueError, match=r"accept names \['size'\]; it may name samples, batch_size, seed"):
        GlobalBatches(1, 1, accept=["seed", "size"])


def restarted(before: GlobalBatches, step: int, after: GlobalBatches) -> GlobalBatches:
    after.load_state_dict(before.state_dict())
    after.resume(step)
    return after


def position(batches: GlobalBatches, step: int, epochs: int) -> tuple[int, int, int, int]:
    """The position of a step, its epoch and that of the step before, and the number of steps."""
    return batches.position(step), batches.epoch(step - 1), batches.epoch(step), batches.steps(epochs)


@pytest.mark.parametrize(
    ("after", "step", "expected"),
    [
        # position, epoch before, epoch, steps in 3 epochs; before: 10 samples in batches of 4
        (GlobalBatches(10, 4), 4, (16, 1, 1, 8)),
        (GlobalBatches(10, 5, accept=["batch_size"]), 4, (16, 1, 1, 4 + 3)),
        (GlobalBatches(10, 5, accept=["batch_size"]), 0, (0, 0, 0, 6)),
        (GlobalBatches(10, 1, accept=["batch_size"]), 3, (12, 0, 1, 3 + 18)),
        (GlobalBatches(10, 1, accept=["batch_size"]), 8, (32, 2, 3, 8)),
        (GlobalBatches(20, 4, accept=["samples"]), 4, (40, 1, 2, 4 + 5)),
        (GlobalBatches(20, 4, accept=["samples"]), 5, (40, 1, 2, 5 + 5)),
        (GlobalBatches(10, 4, 1, accept=["seed"]), 4, (20, 1, 2, 4 + 3)),
        (GlobalBatches(7, 2, 1, accept=["seed", "samples", "batch_size"]), 2, (7, 0, 1, 2 + 7)),
    ],
)
def test_batches_go_on_after_a_change(after: GlobalBatches, step: int, expected: tuple[int, int, int, int]) -> None:
    assert position(restarted(GlobalBatches(10, 4), step, after), step, 3) == expected
    again = restarted(after, step, GlobalBatches(after.samples, after.batch_size, after.seed))
    assert position(again, step, 3) == expected


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (GlobalBatches(11, 4), "samples was 10 and is 11"),
        (GlobalBatches(10, 5), "batch_size was 4 and is 5"),
        (GlobalBatches(10, 4, 9), "seed was 0 and is 9"),
        (GlobalBatches(11, 5, 9, accept=["samples"]), "batch_size was 4 and is 5, seed was 0 and is 9"),
        (GlobalBatches.per_worker(11, 4), "samples was 10 and is 11"),
    ],
)
def test_a_change_is_refused(after: GlobalBatches, message: str) -> None:
    with pytest.raises(ValueError, match=f"the snapshot is of other batches: {message}; "):
        after.load_state_dict(GlobalBatches(10, 4).state_dict())
