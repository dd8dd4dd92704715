"""The decision when a job ends, is suspended or has ended, case by case."""

from dataclasses import replace
from datetime import datetime

import pytest

from builders import (
    DIGEST,
    HOST,
    NOW,
    THREE,
    after,
    at,
    decide,
    facts,
    failed,
    failing,
    instead,
    left,
    make_job,
    make_node,
    scaled,
    seen,
    stored,
    suspended,
    terminating,
    training_job,
)
from decision_cases import (
    ALL,
    CODE,
    DONE,
    STARTING,
    Case,
    check_again,
    check_case,
    decision,
    doing,
    restarted,
    target,
)
from torchrun_operator.api.conditions import ConditionType
from torchrun_operator.api.v1alpha1 import Restarts, TorchrunJob
from torchrun_operator.core.facts.model import Cause, Facts, Phase
from torchrun_operator.core.policies.plan import Deletion, Stop

START_OVER = (
    "pod digits-1 exited with code 137 (SIGKILL) after digits-0 had succeeded; the logs of digits-0 are deleted "
    "together with the pods"
)
BROKEN = seen(DONE[0], failed(1, 137), THREE[2], rendezvous=replace(ALL, closed=True))

ENDS = {
    "maxRestarts is exceeded": Case(
        restarted(training_job(), 3),
        seen(*instead(THREE, failed(1, 3, message="ValueError: bad loss")), rendezvous=ALL),
        doing(
            target=target("10.0.1.1", close=True),
            restarts={Cause.CODE: 1},
        ),
        "Failed",
        ("Valid", "AllScheduled", "MaxRestartsExceeded"),
        Restarts(code=4),
    ),
    "all succeed": Case(
        training_job(),
        seen(*DONE, rendezvous=replace(ALL, closed=True)),
        doing(),
        "Complete",
        ("Valid", "AllScheduled", "Finished"),
    ),
    "one has succeeded, others are about to": Case(
        training_job(),
        seen(*instead(THREE, DONE[0]), rendezvous=replace(ALL, closed=True)),
        decision(target=None),
        "Running",
        ("Valid", "AllScheduled", "Training"),
    ),
    "all succeed while a new node waits": Case(
        scaled(training_job(), 4),
        seen(*DONE, make_node(3, Phase.PENDING), rendezvous=replace(ALL, closed=True)),
        doing(restarts={Cause.RESIZE: 1}),
        "Complete",
        ("Valid", "Finished"),
        Restarts(resize=1),
    ),
    "one is lost after another has succeeded": Case(
        training_job(),
        BROKEN,
        decision(
            target=None,
            deletions=(
                Deletion("digits-rdzv", "pod-rdzv", START_OVER),
                Deletion("digits-0", "pod-0-1", START_OVER, 0),
                Deletion("digits-1", "pod-1-1", START_OVER, 0),
                Deletion("digits-2", "pod-2-1", START_OVER),
            ),
            restart_all=START_OVER,
            restarts={Cause.INFRASTRUCTURE: 1},
        ),
        "Resizing",
        ("Valid", "AllScheduled", "Training", "RestartingAllNodes"),
        Restarts(infrastructure=1),
    ),
    "all nodes start again": Case(
        after(
            training_job(), seen(*instead(DONE[:2] + THREE[2:], failed(1, 137)), rendezvous=replace(ALL, closed=True))
        ),
        seen(rendezvous=replace(ALL, closed=True)),
        decision(
            target=target("10.0.1.0", "10.0.1.1", "10.0.1.2"),
            deletions=(Deletion("digits-rdzv", "pod-rdzv", "it is closed"),),
        ),
        "Resizing",
        ("Valid", "RestartingAllNodes"),
        Restarts(infrastructure=1),
    ),
    "all nodes start again once the old rendezvous is gone": Case(
        after(training_job(), BROKEN),
        seen(rendezvous_pod=replace(HOST, phase=Phase.TERMINATING)),
        decision(),
        "Resizing",
        ("Valid", "RestartingAllNodes"),
        Restarts(infrastructure=1),
    ),
    "all nodes start again with a new rendezvous": Case(
        after(training_job(), BROKEN),
        seen(rendezvous_pod=None),
        decision(create_rendezvous=True, create_nodes=(0, 1, 2), apply_services=False),
        "Resizing",
        ("Valid", "RestartingAllNodes"),
        Restarts(infrastructure=1),
    ),
    "it ended before a status had ranks": Case(
        after(make_job(), seen(*STARTING)),
        seen(*DONE, rendezvous=replace(ALL, closed=True)),
        doing(),
        "Complete",
        ("Valid", "AllScheduled", "Finished"),
    ),
}

PAUSES = {
    "it is suspended": Case(
        suspended(training_job()),
        seen(*THREE[:2], terminating(THREE[2]), rendezvous=ALL),
        doing(
            deletions=(
                Deletion("digits-0", "pod-0-1", "spec.suspend is true"),
                Deletion("digits-1", "pod-1-1", "spec.suspend is true"),
                Deletion("digits-rdzv", "pod-rdzv", "spec.suspend is true"),
            ),
        ),
        "Suspended",
        ("Valid", "Suspending"),
    ),
    "its pods are gone": Case(
        after(suspended(training_job()), seen(*THREE, rendezvous=ALL)),
        facts(),
        doing(),
        "Suspended",
        ("Valid", "Suspended"),
    ),
    "it is resumed": Case(
        suspended(after(suspended(training_job()), facts()), suspend=False),
        facts(token_digest=DIGEST),
        decision(create_rendezvous=True, create_nodes=(0, 1, 2), apply_services=False),
        "Pending",
        ("Valid",),
    ),
    "it is resumed while its old pods end": Case(
        suspended(after(suspended(training_job()), seen(*THREE)), suspend=False),
        seen(*map(terminating, THREE), rendezvous_pod=replace(HOST, phase=Phase.TERMINATING)),
        decision(target=target("10.0.1.0", "10.0.1.1", "10.0.1.2")),
        "Starting",
        ("Valid", "AllScheduled"),
    ),
}


def failed_job(now: datetime = NOW) -> TorchrunJob:
    nodes = instead(THREE, failed(1, 3))
    return stored(restarted(training_job(), 3), decide(restarted(training_job(), 3), seen(*nodes, rendezvous=ALL), now))


ENDED = "the job has ended"
AFTERWARDS = {
    "failed: its rendezvous is closed": Case(
        failed_job(),
        seen(*instead(THREE, failed(1, 3)), make_node(3, Phase.PENDING), rendezvous=ALL),
        doing(
            deletions=(Deletion("digits-3", "pod-3-1", ENDED),),
            target=target("10.0.1.1", close=True),
            look_again_seconds=5.0,
        ),
        "Failed",
        ("Valid", "AllScheduled", "MaxRestartsExceeded"),
        Restarts(code=4),
        now=at(59),
    ),
    "failed: those that did not leave are stopped": Case(
        failed_job(),
        seen(*instead(THREE, failed(1, 3)), rendezvous=ALL),
        doing(
            deletions=(Deletion("digits-rdzv", "pod-rdzv", ENDED),),
            stops=(Stop("digits-0", "pod-0-1"), Stop("digits-2", "pod-2-1")),
        ),
        "Failed",
        ("Valid", "AllScheduled", "MaxRestartsExceeded"),
        Restarts(code=4),
        now=at(60),
    ),
    "failed: they are stopped once, and those that do not run are deleted": Case(
        failed_job(),
        seen(replace(THREE[0], stopping=True), failed(1, 3, lingers=True), make_node(2, Phase.STARTING)),
        doing(
            deletions=(Deletion("digits-2", "pod-2-1", ENDED), Deletion("digits-rdzv", "pod-rdzv", ENDED)),
            stops=(Stop("digits-1", "pod-1-1"),),
        ),
        "Failed",
        ("Valid", "AllScheduled", "MaxRestartsExceeded"),
        Restarts(code=4),
        now=at(60),
    ),
    "failed: the host did not answer": Case(
        failed_job(),
        seen(*instead(THREE, failed(1, 3)), rendezvous_pod=None),
        doing(stops=(Stop("digits-0", "pod-0-1"), Stop("digits-2", "pod-2-1"))),
        "Failed",
        ("Valid", "AllScheduled", "MaxRestartsExceeded"),
        Restarts(code=4),
        now=at(1),
    ),
    "failed: the host has not answered this operator yet": Case(
        failed_job(),
        seen(*instead(THREE, failed(1, 3))),
        doing(target=target("10.0.1.1", close=True), look_again_seconds=5.0),
        "Failed",
        ("Valid", "AllScheduled", "MaxRestartsExceeded"),
        Restarts(code=4),
        now=at(1),
    ),
    "failed: all have left": Case(
        failed_job(),
        seen(*CODE, rendezvous=replace(ALL, closed=True)),
        doing(deletions=(Deletion("digits-rdzv", "pod-rdzv", ENDED),)),
        "Failed",
        ("Valid", "AllScheduled", "MaxRestartsExceeded"),
        Restarts(code=4),
        now=at(2),
    ),
    "complete: what still runs ends, what has finished stays": Case(
        after(training_job(), seen(*DONE, rendezvous=ALL)),
        seen(*DONE, make_node(3, Phase.PENDING)),
        doing(
            deletions=(Deletion("digits-3", "pod-3-1", ENDED), Deletion("digits-rdzv", "pod-rdzv", ENDED)),
        ),
        "Complete",
        ("Valid", "AllScheduled", "Finished"),
    ),
    "complete: suspending it changes nothing": Case(
        suspended(after(training_job(), seen(*DONE, rendezvous=ALL))),
        facts(nodes=DONE),
        doing(),
        "Complete",
        ("Valid", "AllScheduled", "Finished"),
    ),
}

CASES = {**ENDS, **PAUSES, **AFTERWARDS}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_decide(case: Case) -> None:
    check_case(case)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_deciding_again_on_the_written_status_changes_nothing(case: Case) -> None:
    check_again(case)


def messages(job: TorchrunJob, observed: Facts) -> dict[str, str]:
    return {c.type: c.message for c in decide(job, observed, NOW).status.conditions}


def test_failure_names_the_pod_its_words_and_the_count() -> None:
    job = restarted(training_job(maxRestarts=1), 1)
    found = messages(job, seen(*instead(THREE, failed(1, 3, message="ValueError: bad loss")), rendezvous=ALL))
    assert found[ConditionType.FAILED] == (
        "pod digits-1 failed first: ValueError: bad loss (exit code 3); the code has failed 2 times and "
        "spec.maxRestarts is 1; see kubectl -n team logs digits-1 -c trainer"
    )


def test_failure_of_workers_names_the_node() -> None:
    workers = left(ALL, 3, at(-5), "10.0.1.2")
    found = messages(failing(training_job(maxRestarts=0)), seen(*THREE, rendezvous=workers))
    assert found[ConditionType.FAILED] == (
        "pod digits-2 failed first: a worker failed; the code has failed 3 times and spec.maxRestarts is 0; "
        "see kubectl -n team logs digits-2 -c trainer"
    )


def test_failure_after_maxrestarts_was_lowered() -> None:
    found = messages(restarted(training_job(maxRestarts=1), 3), seen(*THREE, rendezvous=ALL))
    assert found[ConditionType.FAILED] == "the code has failed 3 times and spec.maxRestarts is 1"


def test_terminal_states_never_change() -> None:
    job = after(training_job(), seen(*DONE, rendezvous=ALL))
    for observed in (facts(), seen(*THREE, rendezvous=ALL), seen(*CODE)):
        found = decide(scaled(suspended(job), 1), observed, at(100))
        assert (found.status.state, found.status.conditions, found.status.restarts, found.status.completion_time) == (
            "Complete",
            job.status.conditions,
            job.status.restarts,
            NOW,
        )
