"""The deadline of the whole job begins with its start, and again when it is resumed."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from builders import NOW, THREE, after, at, decide, make_job, make_node, make_rendezvous, seen, stored, suspended
from torchrun_operator.api.v1alpha1 import TorchrunJob
from torchrun_operator.core.facts.model import Phase
from torchrun_operator.core.findings.deadline import deadline

DEADLINE = 3600


def job_since(seconds: float, **spec: Any) -> TorchrunJob:
    """Return a job that trains and has been active for so long."""
    return after(make_job(**spec), seen(*THREE, rendezvous=make_rendezvous(*THREE)), at(-seconds))


def resumed(seconds: float) -> TorchrunJob:
    """Return a job that has been active for two hours, with a pause that ended so long ago."""
    pause = after(suspended(job_since(7200, activeDeadlineSeconds=DEADLINE)), seen(), at(-3000))
    return after(suspended(pause, False), seen(*THREE), at(-seconds))


CASES: dict[str, tuple[TorchrunJob, datetime | None]] = {
    "none": (job_since(10), None),
    "it starts now": (make_job(activeDeadlineSeconds=DEADLINE), None),
    "it began a while ago": (job_since(100, activeDeadlineSeconds=DEADLINE), at(DEADLINE - 100)),
    "it was resumed": (resumed(60), at(DEADLINE - 60)),
}


@pytest.mark.parametrize(("job", "expected"), CASES.values(), ids=CASES)
def test_deadline(job: TorchrunJob, expected: datetime | None) -> None:
    assert deadline(seen(*THREE, job=job)) == expected


@pytest.mark.parametrize(("active", "fails"), [(DEADLINE - 1, False), (DEADLINE, True), (10 * DEADLINE, True)])
def test_a_job_fails_at_its_deadline(active: float, fails: bool) -> None:
    found = decide(
        job_since(active, activeDeadlineSeconds=DEADLINE), seen(*THREE, rendezvous=make_rendezvous(*THREE)), NOW
    )
    failed = next(((c.reason, c.message) for c in found.status.conditions if c.type == "Failed"), None)
    assert failed == (
        ("DeadlineExceeded", "the job was active for longer than spec.activeDeadlineSeconds, which is 3600")
        if fails
        else None
    )
    assert found.status.state == ("Failed" if fails else "Running")
    assert found.plan.target is not None
    assert found.plan.target.close is fails
    assert fails or found.plan.look_again_seconds == 1


def test_a_job_that_completes_at_its_deadline_is_complete() -> None:
    done = tuple(make_node(index, Phase.SUCCEEDED) for index in range(3))
    job = job_since(2 * DEADLINE, activeDeadlineSeconds=DEADLINE)
    assert decide(job, seen(*done), NOW).status.state == "Complete"


def test_a_suspended_job_has_no_deadline() -> None:
    job = suspended(job_since(2 * DEADLINE, activeDeadlineSeconds=DEADLINE))
    found = decide(job, seen(*THREE), NOW)
    assert found.status.state == "Suspended"
    assert decide(stored(job, found), seen(), NOW + timedelta(days=1)).status.state == "Suspended"
