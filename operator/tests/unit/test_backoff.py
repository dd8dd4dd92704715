"""A node whose pods end soon after their start, again and again, is replaced later each time, whatever the cause."""

from datetime import datetime
from typing import Any

import pytest

from builders import (
    NOW,
    THREE,
    after,
    at,
    backing_off,
    decide,
    failed,
    instead,
    make_node,
    make_rendezvous,
    rejected,
    seen,
    suspended,
    terminating,
    training_job,
    without,
)
from torchrun_operator.api.conditions import ConditionType, find_condition
from torchrun_operator.api.v1alpha1 import BackOff, TorchrunJob
from torchrun_operator.core.facts.model import Cause, Exit, NodePod, Phase
from torchrun_operator.core.findings.backoff import back_off, wait_after
from torchrun_operator.core.findings.losses import Loss, Losses
from torchrun_operator.core.findings.wanted import Wanted
from torchrun_rendezvous.protocol import RendezvousState

WANTED = Wanted(3, 0, 2)


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [(0, 0), (1, 0), (2, 5), (3, 10), (4, 20), (5, 40), (6, 80), (7, 160), (8, 300), (9, 300), (10**9, 300)],
)
def test_wait(failures: int, seconds: float) -> None:
    assert wait_after(failures).total_seconds() == seconds


def entry(failures: int, retry: float, running: float | None = None) -> BackOff:
    since = at(running) if running is not None else None
    return BackOff(failures=failures, retry_time=at(retry), running_since=since)


def known(failures: int, retry: float = -300, **running: datetime) -> TorchrunJob:
    return backing_off(training_job(), 1, failures, retry_time=at(retry), **running)


def loss(cause: Cause = Cause.INFRASTRUCTURE, *, ended: bool = True, rank: int | None = None, **rest: Any) -> Losses:
    how = Exit(137, "Error", "", NOW) if ended else None
    return Losses((Loss(1, "digits-1", cause, "failed", how, rank, **rest),))


NEW = make_node(1, life=2)
NONE = Losses()
CASES: dict[str, tuple[TorchrunJob, NodePod | None, Losses, BackOff | None, bool]] = {
    # name: the job, the pod of node 1, the losses, the new entry of node 1, whether it waits
    "nothing": (training_job(), THREE[1], NONE, None, False),
    "the first failure": (training_job(), failed(1), loss(), entry(1, 0), False),
    "the second": (known(1), failed(1), loss(), entry(2, 5), True),
    "of the code": (known(1), failed(1), loss(Cause.CODE), entry(2, 5), True),
    "by a preemption": (known(1), failed(1), loss(Cause.PREEMPTION), entry(2, 5), True),
    "by a rejection": (known(1), rejected(1, "OutOfcpu"), loss(), entry(2, 5), True),
    "of a spare": (
        known(1),
        failed(1),
        Losses((), (Loss(1, "digits-1", Cause.CODE, "failed", spare=True),)),
        entry(2, 5),
        True,
    ),
    "by a deletion before it trained": (known(3), None, loss(ended=False), entry(4, 20), True),
    "by a deletion soon after it trained": (
        known(3, running_since=at(-14)),
        None,
        loss(ended=False, rank=1),
        entry(4, 20),
        True,
    ),
    "by a deletion while it trained": (
        known(3, running_since=at(-15)),
        None,
        loss(ended=False, rank=1),
        entry(1, 0),
        False,
    ),
    "by itself while it trained": (
        known(3, running_since=at(-15)),
        failed(1),
        loss(rank=1),
        entry(4, 20),
        True,
    ),
    "after a minute": (known(3, running_since=at(-60)), failed(1), loss(), entry(1, 0), False),
    "it waits": (known(4, 7), failed(1), NONE, entry(4, 7), True),
    "it waits, its pod was deleted meanwhile": (known(4, 7), None, NONE, entry(4, 7), True),
    "it has waited": (known(4, 0), failed(1), NONE, entry(4, 0), False),
    "its replacement is created": (known(4, 0), make_node(1, Phase.PENDING, life=2), NONE, entry(4, 0), False),
    "its replacement runs": (known(4), NEW, NONE, entry(4, -300, 0), False),
    "it has run for a while": (known(4, running_since=at(-59)), NEW, NONE, entry(4, -300, -59), False),
    "it has run well": (known(4, running_since=at(-60)), NEW, NONE, None, False),
    "it has succeeded": (known(4), make_node(1, Phase.SUCCEEDED, life=2), NONE, None, False),
    "it is being deleted": (known(4, 7), terminating(THREE[1]), NONE, entry(4, 7), True),
    "the clock was set back while it waits": (known(4, 3600), failed(1), NONE, entry(4, 3600), False),
    "the clock was set back while it runs": (known(4, running_since=at(3600)), NEW, NONE, None, False),
}


@pytest.mark.parametrize(("job", "node", "losses", "expected", "waits"), CASES.values(), ids=CASES)
def test_back_off(
    job: TorchrunJob, node: NodePod | None, losses: Losses, expected: BackOff | None, waits: bool
) -> None:
    nodes = instead(THREE, node) if node is not None else without(THREE, 1)
    found = back_off(seen(*nodes, job=job), WANTED, losses)
    assert found.nodes == ({1: expected} if expected is not None else {})
    assert found.held == ({1: expected.retry_time} if expected is not None and waits else {})


def test_only_wanted_nodes_of_an_active_job_wait() -> None:
    assert back_off(seen(*THREE[:1], job=known(4, 7)), Wanted(1, 0, 1), NONE).nodes == {}
    assert after(suspended(known(4, 7)), seen(*without(THREE, 1))).status.nodes == ()


def said(failures: dict[int, int], *nodes: NodePod, rendezvous: RendezvousState) -> tuple[str, str, str]:
    """Return the state, and reason and message of the condition that names the nodes that wait.

    ``failures`` of these nodes were counted before these pods were lost.
    """
    job = training_job()
    for index, count in failures.items():
        job = backing_off(job, index, count)
    observed = seen(*nodes, rendezvous=rendezvous)
    status = decide(after(job, observed), observed, NOW).status
    trains = status.membership.nodes
    condition = find_condition(status.conditions, ConditionType.RESIZING if trains else ConditionType.RUNNING)
    assert condition is not None
    return status.state, condition.reason, condition.message


TWO = make_rendezvous(*without(THREE, 1))
OFTEN = "4 times in a row within a minute of the start; the operator replaces it at 2026-01-31T12:00:20Z"
CPU = "Pod was rejected: Node didn't have enough resource: cpu"
REMEDY = (
    "request less, free it on Kubernetes node machine-1, or let the scheduler choose: remove nodeName from the template"
)
WORDS: dict[str, tuple[tuple[str, str, str], str, str]] = {
    "others train": (
        said({1: 3}, *instead(THREE, failed(1, 137)), rendezvous=TWO),
        "ShortOfNodes",
        f"2 of 3 nodes train; the others join later: digits-1: exited with code 137 (SIGKILL), {OFTEN}",
    ),
    "others train, and its pod is gone": (
        said({1: 3}, *without(THREE, 1), rendezvous=TWO),
        "ShortOfNodes",
        f"2 of 3 nodes train; the others join later: digits-1: ended, {OFTEN}",
    ),
    "nobody trains": (
        said(
            {1: 3}, make_node(0), rejected(1, "OutOfcpu", CPU), make_node(2), rendezvous=make_rendezvous(complete=False)
        ),
        "BackOff",
        f"pod digits-1 failed: OutOfcpu: {CPU}, {OFTEN}; {REMEDY}",
    ),
    "nobody trains, and more pods wait": (
        said(
            {1: 3, 2: 2},
            make_node(0),
            rejected(1, "OutOfcpu", CPU),
            failed(2),
            rendezvous=make_rendezvous(complete=False),
        ),
        "BackOff",
        f"pod digits-1 failed: OutOfcpu: {CPU}, {OFTEN}; 1 more pod waits as well; {REMEDY}",
    ),
}


@pytest.mark.parametrize(("found", "reason", "message"), WORDS.values(), ids=WORDS)
def test_words(found: tuple[str, str, str], reason: str, message: str) -> None:
    assert found == ("Running" if reason == "ShortOfNodes" else "Resizing", reason, message)
