"""Hangs and stragglers: deadlines, decisions and status."""

from dataclasses import replace
from typing import Any

import pytest

from builders import (
    NOW,
    THREE,
    at,
    decide,
    make_node,
    make_rendezvous,
    seen,
    stored,
    terminating,
    training_job,
    without,
)
from decision_cases import ALL, Case, check_again, check_case, decision, lost, target
from torchrun_operator.api.conditions import ConditionType, find_condition
from torchrun_operator.api.v1alpha1 import Restarts, Straggler, TorchrunJob
from torchrun_operator.core.events import Event
from torchrun_operator.core.facts.model import Cause
from torchrun_operator.core.findings.hangs import Deadlines, deadlines
from torchrun_operator.core.findings.stuck import StuckReason
from torchrun_operator.core.policies.plan import Deletion, Plan
from torchrun_rendezvous.protocol import EndRound, Member, Overdue, Pace, Progress, RendezvousState


@pytest.mark.parametrize(
    ("given", "pace", "expected"),
    [
        (None, Pace(), Deadlines(300.0)),
        (None, Pace(64, 8), Deadlines(300.0, 600.0)),
        (None, Pace(128, 8), Deadlines(384.0, 600.0)),
        (None, Pace(64, 512), Deadlines(300.0, 1536.0)),
        (None, Pace(1024, 8), Deadlines(3072.0, 3072.0)),
        (20, Pace(), Deadlines(20.0)),
        (20, Pace(1024, 8), Deadlines(20.0, 600.0)),
        (20, Pace(1024, 512), Deadlines(20.0, 1536.0)),
        (3600, Pace(1, 8), Deadlines(3600.0, 3600.0)),
        (0, Pace(1024, 512), Deadlines()),
    ],
    ids=[
        "nothing is known",
        "short pauses",
        "long pauses",
        "long starts",
        "a start is at least given what a step is",
        "given, and no round has started yet",
        "given: pauses do not matter",
        "given: starts keep their own measure",
        "given, and longer than starts",
        "switched off",
    ],
)
def test_deadlines(given: int | None, pace: Pace, expected: Deadlines) -> None:
    assert deadlines(given, pace) == expected


def overdue(round_: int = 0, step: int | None = 100, *, starting: bool = False, seconds: float = 300.0) -> Overdue:
    return Overdue(round_, step, starting, seconds, at(-400))


def hanging(found: Overdue | None = None, pause: float = 8, start: float | None = 8, **changes: Any) -> RendezvousState:
    """Return a rendezvous whose round makes no progress."""
    return replace(ALL, pace=Pace(pause, start, found or overdue()), **changes)


SAID = "no step since 2026-01-31T11:53:20Z, after step 100; the deadline is 300 s"
TOLD = target(end_round=EndRound("aa", 0), start_deadline_seconds=600.0)
HUNG = decision(
    target=TOLD,
    events=(Event("ProgressDeadlineExceeded", f"Workers hang: {SAID}; see the stacks in the logs of the pods", True),),
    restarts={Cause.CODE: 1},
    hung=True,
)
TRAINS = ("Valid", "AllScheduled", "Training")


def found_hung(job: TorchrunJob | None = None, rendezvous: RendezvousState | None = None) -> TorchrunJob:
    """Return a job with a counted hang."""
    job = job or training_job()
    return stored(job, decide(job, seen(*THREE, rendezvous=rendezvous or hanging()), NOW))


CASES = {
    "workers hang": Case(training_job(), seen(*THREE, rendezvous=hanging()), HUNG, "Running", TRAINS, Restarts(code=1)),
    "they hang in the start": Case(
        training_job(),
        seen(*THREE, rendezvous=hanging(overdue(step=None, starting=True, seconds=600.0))),
        replace(
            HUNG,
            events=(
                Event(
                    "ProgressDeadlineExceeded",
                    "Workers hang: no step since 2026-01-31T11:53:20Z, when the round began; the deadline is 600 s; "
                    "see the stacks in the logs of the pods",
                    warning=True,
                ),
            ),
        ),
        "Running",
        TRAINS,
        Restarts(code=1),
    ),
    "the round has been told to end and has not yet": Case(
        found_hung(),
        seen(*THREE, rendezvous=hanging()),
        decision(target=TOLD),
        "Running",
        TRAINS,
        Restarts(code=1),
    ),
    "it has ended": Case(
        found_hung(),
        seen(*THREE, rendezvous=hanging(complete=False, members=(), round=1)),
        decision(target=TOLD, look_again_seconds=10.0),
        "Resizing",
        ("Valid", "AllScheduled", "ProgressDeadlineExceeded"),
        Restarts(code=1),
    ),
    "the next round hangs too": Case(
        found_hung(),
        seen(*THREE, rendezvous=hanging(overdue(1), round=1)),
        replace(HUNG, plan=replace(HUNG.plan, target=replace(TOLD, end_round=EndRound("aa", 1)))),
        "Running",
        TRAINS,
        Restarts(code=2),
    ),
    "another host knows nothing of it": Case(
        found_hung(),
        seen(*THREE, rendezvous=replace(ALL, instance="bb")),
        decision(),
        "Running",
        TRAINS,
        Restarts(code=1),
    ),
    "too often": Case(
        training_job(maxRestarts=0),
        seen(*THREE, rendezvous=hanging()),
        replace(HUNG, events=(), plan=Plan(target=replace(TOLD, close=True))),
        "Failed",
        ("Valid", "AllScheduled", "ProgressDeadlineExceeded"),
        Restarts(code=1),
    ),
    "a node is lost at the same time": Case(
        training_job(),
        seen(*without(THREE, 1), rendezvous=hanging()),
        decision(
            create_nodes=(1,),
            target=target("10.0.1.1", start_deadline_seconds=600.0),
            events=(lost(1, "was deleted", "infrastructure"),),
            restarts={Cause.INFRASTRUCTURE: 1},
        ),
        "Resizing",
        ("Valid", "Training", "NodeLost"),
        Restarts(infrastructure=1),
    ),
    "a member does not come back": Case(
        found_hung(),
        seen(*THREE, rendezvous=hanging(complete=False, members=(), round=1, missing=("10.0.1.1",))),
        decision(
            target=TOLD,
            deletions=(Deletion("digits-1", "pod-1-1", StuckReason.MISSING, 1),),
            events=(lost(1, StuckReason.MISSING, "infrastructure"),),
            restarts={Cause.INFRASTRUCTURE: 1},
            look_again_seconds=10.0,
        ),
        "Resizing",
        ("Valid", "AllScheduled", "NodeLost"),
        Restarts(code=1, infrastructure=1),
    ),
    "it is on its way out": Case(
        found_hung(),
        seen(
            *THREE[:1],
            terminating(THREE[1]),
            THREE[2],
            rendezvous=hanging(complete=False, members=(), round=1, missing=("10.0.1.1",)),
        ),
        decision(
            target=replace(TOLD, leavers=("10.0.1.1",)),
            events=(lost(1, "is being deleted", "infrastructure"),),
            restarts={Cause.INFRASTRUCTURE: 1},
            look_again_seconds=10.0,
        ),
        "Resizing",
        ("Valid", "AllScheduled", "NodeLost"),
        Restarts(code=1, infrastructure=1),
    ),
    "its address is unknown": Case(
        training_job(),
        seen(*THREE, rendezvous=replace(ALL, missing=("10.0.9.9",))),
        decision(target=target("10.0.9.9")),
        "Running",
        TRAINS,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_decide(case: Case) -> None:
    check_case(case)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_deciding_again_changes_nothing(case: Case) -> None:
    check_again(case)


@pytest.mark.parametrize(
    ("spec", "rendezvous"),
    [
        ({}, hanging(overdue(seconds=20.0))),
        ({"progressDeadlineSeconds": 600}, hanging()),
        ({"progressDeadlineSeconds": 0}, hanging()),
        ({}, hanging(pause=128)),
        ({}, hanging(overdue(starting=True), start=None)),
        ({}, hanging(overdue(1))),
        ({}, hanging(complete=False)),
        ({}, hanging(finished=1)),
        ({}, hanging(closed=True)),
    ],
    ids=[
        "the host had another deadline before",
        "the user has raised the deadline",
        "the user has disabled hang detection",
        "a longer pause has been seen",
        "no round has ever got to two steps",
        "of another round",
        "the round ends already",
        "workers are done",
        "the rendezvous is closed",
    ],
)
def test_no_hang(spec: dict[str, Any], rendezvous: RendezvousState) -> None:
    found = decide(training_job(**spec), seen(*THREE, rendezvous=rendezvous), NOW)
    target = found.plan.target
    assert (found.hung, found.restarts, target.end_round if target else None) == (False, {}, None)


def test_a_suspended_job_and_one_that_has_no_pods_do_not_hang() -> None:
    job = training_job(suspend=True)
    assert not decide(job, seen(*THREE, rendezvous=hanging()), NOW).hung
    assert not decide(training_job(), seen(*THREE), NOW).hung


def test_the_job_fails_with_the_reason_and_says_since_when() -> None:
    status = decide(training_job(maxRestarts=0), seen(*THREE, rendezvous=hanging()), NOW).status
    failed = find_condition(status.conditions, ConditionType.FAILED)
    assert failed is not None
    count = "the code has failed 1 time and spec.maxRestarts is 0"
    message = f"workers hang: {SAID}; see the stacks in the logs of the pods; {count}"
    assert (failed.reason, failed.message) == ("ProgressDeadlineExceeded", message)
    assert status.rendezvous.hung_round == 0


# --- stragglers ------------------------------------------------------------------------------------------------------

SLOW = Progress(step=500, time=at(-1), slow_rank=3, slow_node=1, slow_seconds=0.1234, step_seconds=0.5)


def status_of(job: TorchrunJob, rendezvous: RendezvousState | None) -> Any:
    return decide(job, seen(*THREE, rendezvous=rendezvous), NOW).status


def with_progress(progress: Progress, **changes: Any) -> RendezvousState:
    return make_rendezvous(*THREE, progress=progress, completed_at=at(-60), **changes)


def straggles(job: TorchrunJob | None = None) -> TorchrunJob:
    job = job or training_job()
    return stored(job, decide(job, seen(*THREE, rendezvous=with_progress(SLOW)), NOW))


NAMED = Straggler(rank=3, pod="digits-1", machine="machine-1", lag_seconds=0.12, step_seconds=0.5)
WORDS = "rank 3 in pod digits-1 on machine-1 keeps the others waiting for 0.12 s of each step of 0.5 s"


@pytest.mark.parametrize(
    ("job", "rendezvous", "expected", "condition"),
    [
        (training_job(), with_progress(replace(SLOW, slow_rank=None)), None, None),
        (training_job(), with_progress(SLOW), NAMED, ("True", "SlowWorker", WORDS)),
        (
            straggles(),
            with_progress(replace(SLOW, slow_seconds=0.2)),
            NAMED.model_copy(update={"lag_seconds": 0.2}),
            ("True", "SlowWorker", WORDS),
        ),
        (
            straggles(),
            with_progress(replace(SLOW, slow_rank=0, slow_node=0)),
            NAMED.model_copy(update={"rank": 0, "pod": "digits-0", "machine": "machine-0"}),
            ("True", "SlowWorker", WORDS.replace("rank 3", "rank 0").replace("-1", "-0")),
        ),
        (
            straggles(),
            with_progress(replace(SLOW, slow_rank=None)),
            None,
            ("False", "EvenPace", "no worker keeps the others waiting for long"),
        ),
        (
            training_job(),
            with_progress(replace(SLOW, slow_node=7)),
            NAMED.model_copy(update={"pod": "", "machine": None}),
            ("True", "SlowWorker", WORDS.replace(" in pod digits-1 on machine-1", " in an unknown pod")),
        ),
        (straggles(), None, NAMED, ("True", "SlowWorker", WORDS)),
        (training_job(), with_progress(replace(SLOW, time=at(-61))), None, None),
        (training_job(), with_progress(SLOW, complete=False), None, None),
    ],
    ids=[
        "none",
        "one",
        "the same by another figure",
        "another",
        "none any more",
        "in a pod that is not known",
        "nothing is heard of the host",
        "in the round before",
        "the round has ended",
    ],
)
def test_straggler(
    job: TorchrunJob,
    rendezvous: RendezvousState | None,
    expected: Straggler | None,
    condition: tuple[str, str, str] | None,
) -> None:
    status = status_of(job, rendezvous)
    found = find_condition(status.conditions, ConditionType.STRAGGLING)
    assert status.straggler == expected
    assert (found and (found.status, found.reason, found.message)) == condition


def test_ranks_are_those_of_nodes_not_of_their_order() -> None:
    nodes = (make_node(0), make_node(1), make_node(2))
    rendezvous = replace(
        with_progress(SLOW), members=(Member("10.0.1.2", 1), Member("10.0.1.0", 0), Member("10.0.1.1", 2))
    )
    status = decide(training_job(*nodes), seen(*nodes, rendezvous=rendezvous), NOW).status
    assert status.straggler is not None
    assert status.straggler.pod == "digits-2"
