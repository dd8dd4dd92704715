"""The share of the time that trained, and the last rounds: both continue from the stored status."""

from dataclasses import replace
from typing import NamedTuple

import pytest

from builders import CREATED, THREE, after, at, make_rendezvous, seen, suspended, training_job
from torchrun_operator.api.names import MAX_ROUNDS
from torchrun_operator.api.v1alpha1 import Goodput, Progress, RoundStatus, TorchrunJob
from torchrun_operator.core.status.goodput import new_seconds
from torchrun_rendezvous import protocol

START = at(0)


class Report(NamedTuple):
    """What the script reports at a time, in seconds, and since when its round is complete."""

    step: int
    seconds: float
    formed: float = -60
    round: int = 1


def told(job: TorchrunJob, report: Report) -> TorchrunJob:
    """Return the job after a pass that sees this report."""
    step = protocol.Progress(step=report.step, time=at(report.seconds), total_steps=1000, world_size=3)
    state = make_rendezvous(*THREE, round=report.round, completed_at=at(report.formed), progress=step)
    return after(job, seen(*THREE, rendezvous=state), at(report.seconds))


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        pytest.param([], None, id="nothing yet"),
        pytest.param([Report(1, 0)], Goodput(since=START, first_step=1), id="the first step"),
        pytest.param(
            [Report(1, 0), Report(11, 10), Report(21, 20.9)],
            Goodput(ratio=1.0, since=START, first_step=1, training_seconds=20),
            id="steps, one after the other",
        ),
        pytest.param(
            [Report(1, 0), Report(11, 10), Report(11, 10), Report(11, 10)],
            Goodput(ratio=1.0, since=START, first_step=1, training_seconds=10),
            id="the same report again",
        ),
        pytest.param(
            [Report(1, 0), Report(101, 100), Report(102, 140, formed=135, round=2)],
            Goodput(ratio=0.721, since=START, first_step=1, training_seconds=101, lost_seconds=39),
            id="a recovery of 40 s that lost no step",
        ),
        pytest.param(
            [Report(1, 0), Report(101, 100), Report(91, 120, formed=115, round=2)],
            Goodput(ratio=0.75, since=START, first_step=1, training_seconds=90, lost_seconds=30),
            id="ten steps of a second are repeated",
        ),
        pytest.param(
            [Report(1, 0), Report(101, 100), Report(105, 104), Report(91, 120, formed=115, round=2)],
            Goodput(ratio=0.75, since=START, first_step=1, training_seconds=90, lost_seconds=30),
            id="it does not matter which reports were seen",
        ),
        pytest.param(
            [Report(50, 0), Report(60, 10), Report(1, 30, formed=25, round=2), Report(11, 40, formed=25, round=2)],
            Goodput(ratio=0.25, since=START, first_step=1, training_seconds=10, lost_seconds=30),
            id="from the beginning again",
        ),
        pytest.param(
            [Report(1, 0), Report(2, 60, formed=55, round=2)],
            Goodput(ratio=0.0, since=START, first_step=1, lost_seconds=60),
            id="a loss before a step could be measured",
        ),
        pytest.param(
            [Report(1, 0), Report(11, 10), Report(10, 5)],
            Goodput(ratio=1.0, since=START, first_step=1, training_seconds=10),
            id="a report from the past",
        ),
    ],
)
def test_goodput(reports: list[Report], expected: Goodput | None) -> None:
    job = training_job()
    for report in reports:
        job = told(job, report)
    assert job.status.goodput == expected


def test_the_time_suspended_does_not_count() -> None:
    job = told(told(training_job(), Report(1, 0)), Report(101, 100))
    job = after(suspended(job), seen(), at(101))
    job = after(job, seen(), at(5000))
    resumed = job.model_copy(update={"spec": job.spec.model_copy(update={"suspend": False})})
    resumed = after(resumed, seen(), at(9000))
    resumed = told(resumed, Report(102, 9030, formed=9025, round=2))
    expected = Goodput(ratio=0.777, since=START, first_step=1, training_seconds=101, lost_seconds=29)
    assert resumed.status.goodput == expected


def test_what_the_metrics_count() -> None:
    before = Goodput(since=START, training_seconds=100, lost_seconds=10)
    repeated = Goodput(since=START, training_seconds=90, lost_seconds=40)
    assert new_seconds(None, None) == {}
    assert new_seconds(None, before) == {"training": 100, "lost": 10}
    assert new_seconds(before, repeated) == {"lost": 30}
    assert new_seconds(before, before) == {}


def test_rounds_are_kept_once_each() -> None:
    job = told(training_job(), Report(90, -20))
    first = RoundStatus(round=job.status.membership.round, nodes=3, began=at(-60))
    job = told(job, Report(100, 0))
    assert job.status.rounds == (first,)
    state = make_rendezvous(*THREE[:2], round=first.round + 1, completed_at=at(40))
    job = after(job, seen(*THREE[:2]), at(30))  # a node is lost
    job = after(job, seen(*THREE[:2], rendezvous=state), at(41))
    job = after(job, seen(*THREE[:2], rendezvous=state), at(50))
    new = RoundStatus(round=first.round + 1, nodes=2, began=at(40), step=100, cause="infrastructure")
    assert job.status.rounds == (first, new)


def test_only_the_last_rounds_are_kept() -> None:
    job = training_job()
    numbers = list(range(1, MAX_ROUNDS + 6))
    for number in numbers:
        job = told(job, Report(number, number, formed=number - 1, round=number))
    assert [each.round for each in job.status.rounds or ()] == numbers[-MAX_ROUNDS:]


def test_a_round_that_forms_is_not_one_yet() -> None:
    forming = replace(make_rendezvous(*THREE, completed_at=CREATED), complete=False)
    job = training_job().model_copy()
    known = job.status.rounds
    assert after(job, seen(*THREE, rendezvous=forming)).status.rounds == known


def test_without_a_step_there_is_no_goodput() -> None:
    job = training_job()
    assert (job.status.progress, job.status.goodput) == (None, None)
    progress = Progress(step=5, time=START)
    known = job.model_copy(update={"status": job.status.model_copy(update={"progress": progress})})
    assert told(known, Report(9, 10)).status.goodput == Goodput(since=at(10), first_step=9)
