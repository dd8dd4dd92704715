"""The random numbers of each rank continue; new ranks get a stream of their own, or the common one."""

import io
import random

import numpy as np
import pytest
import torch

from torchrun_trainer.snapshots import generators


def draw() -> list[float]:
    return [random.random(), random.gauss(), np.random.random(), np.random.normal(), torch.rand(()).item()]


def seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
    random.gauss()
    np.random.normal()


def through_file(states: list[generators.State]) -> list[generators.State]:
    file = io.BytesIO()
    torch.save(states, file)
    file.seek(0)
    read: list[generators.State] = torch.load(file, weights_only=True)
    return read


@pytest.fixture
def of_two_ranks() -> tuple[list[generators.State], list[list[float]]]:
    states, drawn = [], []
    for rank in range(2):
        seed(rank)
        states.append(generators.capture())
        drawn.append(draw())
    return through_file(states), drawn


def test_each_rank_goes_on_where_it_was(of_two_ranks: tuple[list[generators.State], list[list[float]]]) -> None:
    states, drawn = of_two_ranks
    for rank in range(2):
        generators.restore(states, rank)
        assert draw() == drawn[rank]


def test_a_new_rank_has_a_stream_of_its_own(of_two_ranks: tuple[list[generators.State], list[list[float]]]) -> None:
    states, drawn = of_two_ranks
    streams = []
    for rank in (2, 3, 2):
        generators.restore(states, rank)
        streams.append(draw())
    assert streams[0] == streams[2]  # and on nothing else
    for place in range(len(drawn[0])):
        assert len({values[place] for values in [*drawn, *streams]}) == 4


def test_a_new_rank_has_the_stream_that_all_had() -> None:
    states = []
    for _ in range(2):
        seed(7)
        states.append(generators.capture())
    drawn = draw()
    generators.restore(through_file(states), 2)
    assert draw() == drawn


def test_nothing_saved_changes_nothing() -> None:
    seed(1)
    expected = draw()
    seed(1)
    generators.restore([], 0)
    assert draw() == expected
