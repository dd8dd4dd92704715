"""Failures of workers: each round counts once, unless the loss of a member explains it, whatever the host's clock."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from builders import (
    CREATED,
    THREE,
    at,
    failed,
    instead,
    left,
    make_rendezvous,
    seen,
    terminating,
    training_job,
)
from torchrun_operator.api.v1alpha1 import RendezvousStatus, TorchrunJob
from torchrun_operator.core.facts.model import NodePod
from torchrun_operator.core.findings.find import find
from torchrun_operator.core.findings.workers import WorkerFailures
from torchrun_rendezvous.protocol import RendezvousState

HOST_SINCE = CREATED + timedelta(minutes=1)
BY = ("10.0.1.2",)
TRAINED = training_job()
ROUND_4 = make_rendezvous(*THREE, round=4)


def counted(count: int, failing: float | None = None, lost_round: int | None = None) -> TorchrunJob:
    """Return a job whose status has counted that many failures, and has known a further one that long after NOW."""
    since = at(failing) if failing is not None else None
    recorded = RendezvousStatus(
        instance="aa", unrequested=count, since=HOST_SINCE, failing_since=since, lost_round=lost_round
    )
    membership = TRAINED.status.membership.model_copy(update={"round": 4})
    status = TRAINED.status.model_copy(update={"rendezvous": recorded, "membership": membership})
    return TRAINED.model_copy(update={"status": status})


def reported(count: int, skew: float = 0.0, number: int = 4, **changes: Any) -> RendezvousState:
    """Return the state of a host that has counted that many failures, the last one in that round, by its own clock."""
    state = left(replace(ROUND_4, round=number), count, at(skew), "10.0.1.2")
    return replace(state, **{"round": number + 1, "complete": False, "members": (), **changes})


LOST = instead(THREE, failed(1, 137))
SPARE_LOST = (*THREE, failed(3, 137, address="10.0.1.3"))
FAILURES: dict[str, tuple[TorchrunJob, tuple[NodePod, ...], RendezvousState | None, float, WorkerFailures]] = {
    # name: (job, nodes, rendezvous, now, expected)
    "no host": (counted(2), THREE, None, 0, WorkerFailures(0, 2)),
    "no host, after it reported a failure": (counted(2, 0), THREE, None, 9, WorkerFailures(0, 2, at(0))),
    "nothing new": (counted(2), THREE, reported(2), 0, WorkerFailures(0, 2)),
    "seen for the first time": (counted(2), THREE, reported(3), 7, WorkerFailures(0, 2, at(7))),
    "seen for the first time, long ago by the host's clock": (
        counted(2),
        THREE,
        reported(3, -3600),
        0,
        WorkerFailures(0, 2, at(0)),
    ),
    "waits for news of a node": (counted(2, 0), THREE, reported(3), 2.9, WorkerFailures(0, 2, at(0))),
    "settled": (counted(2, 0), THREE, reported(3), 3, WorkerFailures(1, 3, by=BY)),
    "settled, in an hour by the host's clock": (
        counted(2, 0),
        THREE,
        reported(3, 3600),
        3,
        WorkerFailures(1, 3, by=BY),
    ),
    "settled, though the workers have failed again since": (
        counted(2, 0),
        THREE,
        reported(5, 2.9, number=6),
        3,
        WorkerFailures(3, 5, by=BY),
    ),
    "settled, after the operator's clock was set back": (
        counted(2, 3600),
        THREE,
        reported(3),
        0,
        WorkerFailures(1, 3, by=BY),
    ),
    "explained by the loss of a member, seen first": (
        counted(2, lost_round=4),
        THREE,
        reported(3),
        20,
        WorkerFailures(0, 3, lost_round=4),
    ),
    "explained by the loss of a member, seen last": (
        counted(2, 0),
        LOST,
        reported(3),
        2,
        WorkerFailures(0, 3, lost_round=4),
    ),
    "explained by the loss of a member that is seen late": (
        counted(2, 0),
        LOST,
        reported(3),
        3600,
        WorkerFailures(0, 3, lost_round=4),
    ),
    "not explained by a loss in an earlier round": (
        counted(2, 0, lost_round=3),
        THREE,
        reported(3),
        3,
        WorkerFailures(1, 3, by=BY, lost_round=3),
    ),
    "not explained by the loss of a node that was no member": (
        counted(2, 0),
        SPARE_LOST,
        reported(3),
        3,
        WorkerFailures(1, 3, by=BY),
    ),
    "a member is lost, and no workers have failed yet": (
        counted(2),
        LOST,
        left(ROUND_4, 2, at(0)),
        0,
        WorkerFailures(0, 2, lost_round=4),
    ),
    "a member is lost, and the others have left the round already": (
        counted(2),
        LOST,
        replace(left(ROUND_4, 2, at(0)), round=5, complete=False, members=()),
        0,
        WorkerFailures(0, 2, lost_round=4),
    ),
    "a member must leave": (
        counted(2),
        (*THREE[:2], terminating(THREE[2])),
        left(ROUND_4, 2, at(0)),
        0,
        WorkerFailures(0, 2, lost_round=4),
    ),
    "a new host starts from nothing": (
        counted(7, -60),
        THREE,
        reported(1, instance="bb"),
        3,
        WorkerFailures(0, 0, at(3)),
    ),
    "a new host has nothing yet": (
        counted(7, -60, lost_round=4),
        THREE,
        replace(ROUND_4, instance="bb"),
        3,
        WorkerFailures(0, 0),
    ),
}


@pytest.mark.parametrize(("job", "nodes", "rendezvous", "now", "expected"), FAILURES.values(), ids=FAILURES)
def test_worker_failures(
    job: TorchrunJob,
    nodes: tuple[NodePod, ...],
    rendezvous: RendezvousState | None,
    now: float,
    expected: WorkerFailures,
) -> None:
    assert find(seen(*nodes, job=job, rendezvous=rendezvous, now=at(now))).workers == expected
