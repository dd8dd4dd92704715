"""The samples of a step do not depend on the number of workers, and every epoch has each sample once."""

import pytest

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


def test_epoch_and_steps() -> None:
    batches = GlobalBatches(10, 4)
    assert [batches.epoch(step) for step in range(6)] == [0, 0, 0, 1, 1, 2]
    assert [batches.steps(epochs) for epochs in (0, 1, 2)] == [0, 3, 5]


def test_seeds_differ() -> None:
    assert GlobalBatches(100, 50, 1).share(0, 0, 1).tolist() != GlobalBatches(100, 50, 2).share(0, 0, 1).tolist()


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        GlobalBatches(0, 1)
    with pytest.raises(ValueError, match="a batch of 2 cannot be shared by 3 workers"):
        GlobalBatches(10, 2).share(0, 0, 3)
