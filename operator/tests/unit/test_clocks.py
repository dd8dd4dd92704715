"""Times of other clocks in the operator's time, and the operator's own clock."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import NOW, at, facts, make_node
from torchrun_operator.core.facts.clocks import difference, in_our_time, sighted
from torchrun_operator.core.facts.model import Exit, Phase, Wait
from torchrun_operator.process import clock
from torchrun_operator.process.clock import SteadyClock
from torchrun_rendezvous.protocol import Overdue, Pace, Progress, RendezvousState, Unrequested

HOUR = timedelta(hours=1)
NONE = timedelta(0)


@pytest.mark.parametrize(
    ("known", "reported", "expected"),
    [
        (NONE, None, NONE),
        (HOUR, None, HOUR),
        (NONE, NOW, NONE),
        (NONE, at(-1.9), NONE),
        (NONE, at(1.9), NONE),
        (NONE, at(-10), timedelta(seconds=10)),
        (NONE, at(10), timedelta(seconds=-10)),
        (NONE, at(3600), -HOUR),
        (HOUR, at(-3601), HOUR),
        (HOUR, at(-3610), timedelta(seconds=3610)),
        (HOUR, at(-1), NONE),
        (NONE, datetime(1, 1, 1, tzinfo=UTC), NONE),
        (NONE, datetime(9999, 12, 31, tzinfo=UTC), NONE),
    ],
)
def test_the_difference_to_the_clock_of_a_host(
    known: timedelta, reported: datetime | None, expected: timedelta
) -> None:
    assert difference(known, reported, NOW) == expected


def told(moment: datetime) -> RendezvousState:
    """Return a state document with that time everywhere."""
    return RendezvousState(
        "aa",
        last_unrequested=Unrequested(1, ("a",), moment),
        completed_at=moment,
        progress=Progress(step=1, time=moment),
        pace=Pace(overdue=Overdue(1, 1, False, 300.0, moment)),
    )


def test_all_times_of_a_state_document_are_moved() -> None:
    assert in_our_time(replace(told(at(3600)), time=at(3600)), -HOUR) == told(NOW)
    assert in_our_time(replace(RendezvousState("aa"), time=NOW), HOUR) == RendezvousState("aa")


@given(st.datetimes(timezones=st.just(UTC)), st.datetimes(timezones=st.just(UTC)))
def test_no_time_of_a_host_is_too_odd(moment: datetime, reported: datetime) -> None:
    in_our_time(told(moment), difference(NONE, reported, NOW))


def test_a_time_counts_from_when_it_was_first_seen() -> None:
    ended = Exit(1, "Error", "", at(3600))
    node = make_node(0, Phase.FAILED, created_at=at(-7200), started_at=at(3590), exit=ended)
    first, seen = sighted(facts(now=NOW), None)
    assert first == facts(now=NOW)
    found, seen = sighted(facts(now=NOW, nodes=(node,)), seen)
    expected = replace(node, created_at=NOW, started_at=NOW, exit=replace(ended, finished_at=NOW))
    assert found.nodes == (expected,)
    again, seen = sighted(facts(now=at(60), nodes=(node,)), seen)
    assert again.nodes == (expected,)
    waits = replace(node, wait=Wait("ErrImagePull", since=at(5)))
    later, seen = sighted(facts(now=at(90), nodes=(waits,)), seen)
    assert later.nodes == (replace(expected, wait=Wait("ErrImagePull", since=at(90))),)
    _, seen = sighted(facts(now=at(91)), seen)
    assert not seen, "nothing is remembered of pods that are gone"


def test_what_a_new_process_finds_was_there_before() -> None:
    node = make_node(0, created_at=at(-60), started_at=at(3600))
    found, _ = sighted(facts(now=NOW, nodes=(node,)), None)
    assert found.nodes == (replace(node, created_at=at(-60), started_at=NOW),)


def test_the_operators_clock_does_not_jump_with_the_date(monkeypatch: pytest.MonkeyPatch) -> None:
    elapsed = 1000.0
    monkeypatch.setattr(clock, "_elapsed", lambda: elapsed)
    steady = SteadyClock()
    began = steady()
    assert abs((datetime.now(UTC) - began).total_seconds()) < 60
    monkeypatch.setattr(time, "time", lambda: 0.0)
    elapsed = 1090.0
    assert steady() - began == timedelta(seconds=90)
