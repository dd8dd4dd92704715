"""What the status says while the membership changes: rounds, planned changes, recovery, the end."""

from dataclasses import replace
from typing import Any

import pytest

from builders import (
    NOW,
    THREE,
    after,
    at,
    decide,
    failed,
    instead,
    left,
    make_node,
    make_rendezvous,
    scaled,
    seen,
    suspended,
    terminating,
    training_job,
    without,
)
from torchrun_operator.api.conditions import ConditionType, find_condition
from torchrun_operator.api.v1alpha1 import TorchrunJob
from torchrun_operator.core.events import Event, transitions
from torchrun_operator.core.facts.model import Facts
from torchrun_rendezvous.protocol import Progress, RendezvousState

ALL = make_rendezvous(*THREE)
NEW_HOST = replace(ALL, instance="bb")


def live(job: TorchrunJob, *passes: Facts) -> TorchrunJob:
    """Return the job after these passes, a second apart."""
    for seconds, observed in enumerate(passes):
        job = after(job, observed, at(seconds))
    return job


def rounds(job: TorchrunJob, *states: RendezvousState | None) -> list[int]:
    found = []
    for seconds, state in enumerate(states):
        job = after(job, seen(*THREE, rendezvous=state), at(seconds))
        found.append(job.status.membership.round)
    return found


ROUNDS: dict[str, tuple[tuple[RendezvousState | None, ...], list[int]]] = {
    "one host": ((ALL, replace(ALL, round=1), replace(ALL, round=2)), [0, 1, 2]),
    "the host is away": ((replace(ALL, round=3), None, replace(ALL, round=3)), [3, 3, 3]),
    "a second host": ((replace(ALL, round=3), None, NEW_HOST, replace(NEW_HOST, round=1)), [3, 3, 4, 5]),
    "a third host": ((replace(ALL, round=3), NEW_HOST, replace(ALL, instance="cc", round=2)), [3, 4, 7]),
}


@pytest.mark.parametrize(("states", "numbers"), ROUNDS.values(), ids=ROUNDS)
def test_the_number_of_a_round_never_falls(states: tuple[RendezvousState | None, ...], numbers: list[int]) -> None:
    assert rounds(training_job(), *states) == numbers


def test_it_continues_after_a_pause() -> None:
    job = live(training_job(), seen(*THREE, rendezvous=replace(ALL, round=3)))
    job = live(suspended(job), seen(*map(terminating, THREE)), seen())
    assert rounds(suspended(job, suspend=False), NEW_HOST) == [4]


def test_a_job_that_ends_keeps_the_number() -> None:
    job = live(training_job(maxRestarts=0), seen(*instead(THREE, failed(1, 3)), rendezvous=replace(ALL, round=3)))
    assert rounds(job, NEW_HOST) == [3]


def test_messages_have_the_same_number_as_the_status() -> None:
    job = live(training_job(), seen(*THREE, rendezvous=replace(ALL, round=3)))
    found = decide(job, seen(*THREE, rendezvous=NEW_HOST), at(1)).status
    running = find_condition(found.conditions, ConditionType.RUNNING)
    assert running is not None
    assert running.message == "3 of 3 nodes train in round 4"


LEAVING = seen(*THREE[:2], terminating(THREE[2]), rendezvous=make_rendezvous(*THREE[:2], complete=False, round=1))
PLANNED: dict[str, tuple[int, Facts, str, str]] = {
    "the surplus pod ends": (
        2,
        LEAVING,
        "RestartingWorkers",
        "workers restart; 2 of 2 nodes have joined the next round",
    ),
    "it is wanted again meanwhile": (
        3,
        LEAVING,
        "RestartingWorkers",
        "workers restart; 2 of 3 nodes have joined the next round",
    ),
    "another one is lost meanwhile": (
        2,
        replace(LEAVING, nodes=without(LEAVING.nodes, 1)),
        "NodeLost",
        "0 of 2 nodes train; lost: digits-1",
    ),
}


@pytest.mark.parametrize(("then", "observed", "reason", "message"), PLANNED.values(), ids=PLANNED)
def test_nodes_that_leave_by_plan_are_not_lost(then: int, observed: Facts, reason: str, message: str) -> None:
    job = scaled(live(scaled(training_job(), 2), seen(*THREE, rendezvous=ALL)), then)
    found = find_condition(decide(job, observed, at(1)).status.conditions, ConditionType.RESIZING)
    assert found is not None
    assert (found.reason, found.message) == (reason, message)


def test_a_script_that_reports_nothing_has_recovered_when_the_next_round_forms() -> None:
    replaced = instead(THREE, make_node(1, life=2))
    job = live(training_job(), seen(*without(THREE, 1), rendezvous=ALL))
    forming = seen(*replaced, rendezvous=make_rendezvous(*replaced[:1], round=1, complete=False))
    job = live(job, forming, seen(*replaced, rendezvous=make_rendezvous(*replaced, round=1, completed_at=at(7))))
    change = job.status.membership.last_change
    assert change is not None
    assert (change.recovery_seconds, change.lost_steps) == (7.0, None)


def test_a_script_that_reports_steps_has_recovered_with_the_first_one() -> None:
    steps = Progress(step=5, time=at(-1))
    job = live(training_job(), seen(*THREE, rendezvous=replace(ALL, progress=steps)))
    job = live(job, seen(*THREE, rendezvous=replace(left(ALL, 1, NOW), progress=steps)))
    job = after(job, seen(*THREE, rendezvous=replace(left(ALL, 1, NOW), progress=steps)), at(3))
    formed = replace(left(ALL, 1, NOW), round=1, completed_at=at(4))
    for state, seconds in ((replace(formed, progress=steps), None), (NEW_HOST, None)):
        job = after(job, seen(*THREE, rendezvous=replace(state, completed_at=at(4))), at(5))
        change = job.status.membership.last_change
        assert change is not None
        assert change.recovery_seconds is seconds


def test_a_failed_job_shows_no_training_nodes() -> None:
    observed = seen(*instead(THREE, failed(1, 3)), rendezvous=ALL)
    found = decide(training_job(maxRestarts=0), observed, NOW).status
    assert (found.state, found.membership.nodes, found.membership.summary) == ("Failed", 0, "0/2:4")


def told(job: TorchrunJob, *passes: Facts) -> list[str]:
    """Return the reasons of all events of these passes."""
    found: list[Event] = []
    for seconds, observed in enumerate(passes):
        decision = decide(job, observed, at(10 * seconds))
        found += [*decision.events, *transitions(job.status, decision.status)]
        job = after(job, observed, at(10 * seconds))
    return [str(event.reason) for event in found]


DONE = make_node(0, THREE[0].phase.SUCCEEDED)
ONCE: dict[str, tuple[dict[str, Any], tuple[Facts, ...], list[str]]] = {
    "a failure of workers ends the job": (
        {"maxRestarts": 0},
        (seen(*THREE, rendezvous=left(ALL, 1, at(-9))),) * 2,
        ["MaxRestartsExceeded"],
    ),
    "a failed container ends the job": (
        {"maxRestarts": 0},
        (seen(*instead(THREE, failed(1, 3)), rendezvous=ALL),) * 2,
        ["MaxRestartsExceeded"],
    ),
    "all nodes start again": (
        {},
        (
            seen(DONE, failed(1, 137), THREE[2], rendezvous=replace(ALL, closed=True)),
            seen(DONE, terminating(THREE[2])),
            seen(terminating(THREE[2]), rendezvous_pod=None),
            seen(rendezvous_pod=None),
        ),
        ["RestartingAllNodes"],
    ),
}


@pytest.mark.parametrize(("spec", "passes", "reasons"), ONCE.values(), ids=ONCE)
def test_the_same_fact_is_one_event(spec: dict[str, Any], passes: tuple[Facts, ...], reasons: list[str]) -> None:
    assert told(training_job(**spec), *passes) == reasons
