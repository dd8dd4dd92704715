"""Recovery step by step, with real processes that die, leave and come, and torchft's lighthouse."""

import importlib
import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from per_step_groups import SECONDS, Groups
from per_step_worker import BATCH, HURRY, SAMPLES, Job
from torchrun_trainer import GlobalBatches
from torchrun_trainer.per_step import transport

transport.imported()
coordination = importlib.import_module("torchft.coordination")
pytestmark = [pytest.mark.torch, pytest.mark.timeout(300)]

STEPS = 600


@pytest.fixture(scope="module")
def lighthouse() -> Iterator[str]:
    """Return the URL of a lighthouse: a group without a heartbeat for 500 ms is dead, one with may take 5 s to join."""
    server = coordination.LighthouseServer("[::]:0", 1, 5000, 20, 500)
    yield f"http://127.0.0.1:{server.address().rstrip('/').rpartition(':')[2]}"
    server.shutdown()


@pytest.fixture
def groups(lighthouse: str, tmp_path: Path) -> Iterator[Groups]:
    """Return a job that takes 600 steps, of 0.05 s at least until nothing more happens to it."""
    environment = {
        "TORCHRUN_FAULT_TOLERANCE": "PerStep",
        "TORCHFT_LIGHTHOUSE": lighthouse,
        "TORCHELASTIC_RUN_ID": str(tmp_path),
    }
    found = Groups(Job(str(tmp_path), "", environment, STEPS, seconds=0.05))
    yield found
    found.stop()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Return the parameters after 600 steps of one process, which is never disturbed."""
    directory = tmp_path_factory.mktemp("undisturbed")
    alone = Groups(Job(str(directory), "alone", {}, STEPS))
    alone.start("alone")
    assert alone.ended("alone") == [0]
    return alone.result("alone")


def assert_exact(groups: Groups, names: list[str], undisturbed: list[float]) -> None:
    """Check that these groups end as if nothing had happened, and that no group ever did a committed step again."""
    Path(groups.job.directory, HURRY).touch()
    assert [groups.ended(name) for name in names] == [[0] * groups.job.size] * len(names)
    for name in names:
        assert groups.result(name) == pytest.approx(undisturbed, abs=1e-5)
    batches = GlobalBatches(SAMPLES, BATCH)
    for name in names:
        for one in groups.attempts(name):
            assert one.samples == tuple(batches.share(one.step, one.rank, one.world).tolist())


@pytest.mark.parametrize("part", ["start", "backward", "vote", "end"])
def test_a_death_at_any_point_of_a_step_costs_the_others_nothing(
    groups: Groups, undisturbed: list[float], part: str
) -> None:
    for name in ("g-0", "g-1", "g-2"):
        groups.start(name, dies_in=part if name == "g-2" else "")
    assert groups.ended("g-2") == [-9]
    assert_exact(groups, ["g-0", "g-1"], undisturbed)
    for name in ("g-0", "g-1"):
        steps = [one.step for one in groups.attempts(name)]
        assert steps == sorted(steps)
        assert len(steps) <= STEPS + 3  # a step is done again where a group is lost, or comes


@pytest.mark.parametrize(("size", "loader"), [(1, True), (2, False)])
def test_groups_that_die_leave_and_come_back(
    groups: Groups, undisturbed: list[float], size: int, *, loader: bool
) -> None:
    groups.job = replace(groups.job, size=size, loader=loader)
    names = ["g-0", "g-1", "g-2"]
    for name in names:
        groups.start(name)
    groups.wait("g-1", 3 * size)
    groups.kill("g-0")  # it saves the snapshots
    groups.wait("g-1", 2 * size)
    groups.start("g-0")
    groups.wait("g-0", 3 * size, step=1)
    groups.leave("g-2")
    groups.wait("g-1", 2 * size)
    assert_exact(groups, ["g-0", "g-1"], undisturbed)


def test_all_groups_die_and_continue_from_the_snapshot(groups: Groups, undisturbed: list[float]) -> None:
    for name in ("g-0", "g-1"):
        groups.start(name)
    groups.wait("g-1", 2, step=25)
    for name in ("g-0", "g-1"):
        groups.kill(name)
        groups.ended(name)
    for name in ("g-0", "g-1"):
        groups.start(name)
    assert_exact(groups, ["g-0", "g-1"], undisturbed)
    first = next(one for one in groups.attempts("g-1") if one.time > time.time() - SECONDS and one.step >= 20)
    assert first.step >= 20


def test_too_few_groups_wait(groups: Groups, undisturbed: list[float]) -> None:
    groups.job = replace(groups.job, environment={**groups.job.environment, "TORCHRUN_MIN_REPLICA_GROUPS": "2"})
    groups.start("g-0")
    time.sleep(2)
    groups.start("g-1")
    groups.wait("g-0", 2, step=5)
    groups.kill("g-1")
    groups.ended("g-1")
    time.sleep(2)
    groups.start("g-1")
    assert_exact(groups, ["g-0", "g-1"], undisturbed)
    assert {one.world for one in groups.attempts("g-0")} == {2}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_random_deaths_and_resizes(groups: Groups, tmp_path: Path) -> None:
    groups.job = replace(groups.job, steps=6000)
    alone = Groups(replace(groups.job, environment={}, seconds=0.0, directory=str(tmp_path / "alone")))
    Path(alone.job.directory).mkdir()
    alone.start("alone")
    alone.ended("alone")
    names = [f"g-{number}" for number in range(4)]
    chance = random.Random(7)
    for name in names:
        groups.start(name)
    groups.wait("g-0", 4)
    for _ in range(20):
        name = chance.choice(names[1:])
        if chance.random() < 0.5:
            groups.kill(name)
        else:
            groups.leave(name)
        groups.wait("g-0", 3)
        groups.start(name)
        groups.wait("g-0", 4)
    assert_exact(groups, names, alone.result("alone"))
    times = [one.time for one in groups.attempts("g-0")]
    longest = max(later - earlier for earlier, later in itertools.pairwise(times[5:]))
    assert longest < 10
