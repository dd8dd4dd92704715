"""Stragglers: which rank the figures blame, how long that takes, and real ranks, one of which is slow."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from support import agents
from torchrun_trainer.watch import straggler as module
from torchrun_trainer.watch.straggler import Straggler, Stragglers, Times, straggler

WORKER = Path(__file__).parent / "uneven_worker.py"


def ranks(*figures: tuple[float, float], step: float = 0.1) -> list[Times]:
    return [Times(forward, arrival, step) for forward, arrival in figures]


EVEN = (0.05, 0.09)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (ranks(EVEN, EVEN, EVEN, EVEN), None),
        (ranks(EVEN), None),
        (ranks(EVEN, EVEN, (0.07, 0.09), EVEN), Straggler(2, 0.02, 0.1)),
        (ranks(EVEN, (0.05, 0.11), EVEN, EVEN), Straggler(1, 0.02, 0.1)),
        (ranks(EVEN, (0.07, 0.11), EVEN), Straggler(1, 0.02, 0.1)),
        (ranks((0.07, 0.09), EVEN), Straggler(0, 0.02, 0.1)),
        (ranks(EVEN, (0.064, 0.09), EVEN), None),
        (ranks((0.07, 0.09), (0.07, 0.09), EVEN, EVEN), Straggler(0, 0.02, 0.1)),
        (ranks((0.001, 0.002), (0.004, 0.002), step=0.005), None),
        (ranks((0.0, 0.09), (0.0, 0.09), (0.0, 0.09)), None),
    ],
    ids=[
        "all alike",
        "one alone",
        "slow before the others wait",
        "slow behind the last collective",
        "late in both: there was nothing to wait for in between",
        "one of two",
        "a little late",
        "the first of two that are",
        "very short steps",
        "no forward pass is seen",
    ],
)
def test_straggler(times: list[Times], expected: Straggler | None) -> None:
    found = straggler(times)
    assert (found and (found.rank, round(found.lag_seconds, 6), found.step_seconds)) == (
        expected and (expected.rank, expected.lag_seconds, expected.step_seconds)
    )


def test_lags_are_against_the_median_of_the_others() -> None:
    assert module._lags([1.0, 2.0, 4.0, 9.0]) == [1 - 4.0, 2 - 4.0, 4 - 2.0, 9 - 2.0]
    assert module._lags([3.0, 3.0, 5.0]) == [3 - 4.0, 3 - 4.0, 5 - 3.0]


@pytest.mark.parametrize(
    ("windows", "named"),
    [
        ([2, 2], [None, None]),
        ([2, 2, 2], [None, None, 2]),
        ([2, 1, 2, 2, 2], [None, None, None, None, 2]),
        ([2, None, 2, None], [None] * 4),
        ([2, 2, 2, None, None, None], [None, None, 2, 2, 2, None]),
        ([2, 2, 2, 1, 1, 1], [None, None, 2, 2, 2, 1]),
    ],
)
def test_one_is_named_after_three_windows_and_acquitted_after_three(
    windows: list[int | None], named: list[int | None]
) -> None:
    found = Stragglers(3, torch.device("cpu"))
    said = []
    for slow in windows:
        found.judge(ranks(*((0.08, 0.09) if rank == slow else EVEN for rank in range(3))))
        said.append(found.found.rank if found.found else None)
    assert said == named


def test_what_is_measured() -> None:
    now = 0.0
    found = Stragglers(2, torch.device("cpu"), lambda: now)
    found.begin()
    for seconds, act in [
        (1.0, found._forward_done),
        (2.0, found._forward_done),  # another forward pass in the same step
        (3.0, found.arrived),
        (4.0, found.agreed),
        (6.0, found.arrived),
        (7.0, found.agreed),
    ]:
        now = seconds
        act()
    assert list(found._steps) == [Times(1.0, 3.0, 4.0), Times(0.0, 2.0, 3.0)]


class FakeCudaEvent:
    """Stands for torch.cuda.Event: the GPU has reached it if `reached` is true."""

    reached = True
    clock = 0.0

    def __init__(self, **_: Any) -> None:
        self.at = -1.0

    def record(self, _stream: object) -> None:
        self.at = FakeCudaEvent.clock

    def query(self) -> bool:
        return FakeCudaEvent.reached

    def elapsed_time(self, other: "FakeCudaEvent") -> float:
        return (other.at - self.at) * 1000


def test_on_a_gpu_its_own_clock_counts_and_nobody_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", FakeCudaEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: device)
    watch = module._GpuStopwatch(torch.device("cpu"))
    said = []
    for begin, end, reached in [(0.0, 2.0, True), (10.0, 13.0, False), (20.0, 29.0, True), (30.0, 31.0, True)]:
        FakeCudaEvent.clock, FakeCudaEvent.reached = begin, reached
        watch.start()
        FakeCudaEvent.clock = end
        watch.stop()
        said.append(watch.read())
    assert said == [2.0, 2.0, 3.0, 1.0]
    watch.start()
    FakeCudaEvent.clock = 40.0
    watch.start()  # a step without a forward pass lay between
    FakeCudaEvent.clock = 41.0
    watch.stop()
    assert watch.read() == 1.0


def test_only_forward_passes_of_distributed_models_are_watched() -> None:
    found = Stragglers(2, torch.device("cpu"))
    found.watch(nn.Linear(1, 1))
    assert found._hooks == []


def run(where: str, slow: int, *, steps: int) -> list[str]:
    """Train with real processes, one of which may be slow; return the rank that each line of progress names."""
    lines = re.findall("step=.*", agents.output([str(WORKER), where, str(slow), str(steps)], 3))
    assert len(lines) > 3
    return [line.partition(" slow=")[2] for line in lines]


@pytest.mark.torch
@pytest.mark.parametrize(("where", "slow"), [("data", 2), ("forward", 0), ("after", 1)])
def test_a_slow_rank_is_named(where: str, slow: int) -> None:
    named = run(where, slow, steps=90)
    assert named[0] == ""
    assert named[-1] == str(slow)
    assert set(named) == {"", str(slow)}


@pytest.mark.torch
def test_ranks_that_are_alike_are_not_blamed() -> None:
    assert set(run("nowhere", 0, steps=240)) == {""}
