"""Cases of the decision, and how to check one."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from builders import (
    NOW,
    THREE,
    decide,
    failed,
    make_node,
    make_rendezvous,
    stored,
)
from torchrun_operator.api.conditions import ConditionStatus
from torchrun_operator.api.v1alpha1 import Restarts, TorchrunJob, TorchrunJobStatus
from torchrun_operator.core.decide import Decision
from torchrun_operator.core.events import Event
from torchrun_operator.core.facts.model import Facts, Phase
from torchrun_operator.core.policies.plan import Plan
from torchrun_rendezvous.protocol import Target

ALL = make_rendezvous(*THREE)
DONE = tuple(make_node(index, Phase.SUCCEEDED) for index in range(3))
NOTHING = TorchrunJobStatus()
CODE = tuple(failed(index, 1, message="ValueError") for index in range(3))
STARTING = tuple(make_node(index, Phase.STARTING) for index in range(3))


def target(*leavers: str, size: int = 3, **changes: Any) -> Target:
    return Target(
        **{
            "generation": 1,
            "size": size,
            "minimum": 2,
            "last_call_seconds": 15.0,
            "leavers": leavers,
            "progress_deadline_seconds": 300.0,
            **changes,
        }
    )


def decision(**parts: Any) -> Decision:
    """Return a decision without its status. By default, that of a job that continues."""
    return doing(**{"apply_objects": True, "apply_services": True, "target": target(), **parts})


def doing(**parts: Any) -> Decision:
    """Return a decision without its status, and with only these parts."""
    plan = dict(parts)
    rest = {name: plan.pop(name) for name in ("events", "restarts", "hung") if name in plan}
    return Decision(status=NOTHING, plan=Plan(**plan), **rest)


@dataclass(frozen=True)
class Case:
    """A job, its facts, and the expected decision."""

    job: TorchrunJob
    observed: Facts
    expected: Decision
    state: str
    true: tuple[str, ...]
    """Reasons of the conditions that are True."""
    restarts: Restarts = field(default_factory=Restarts)
    now: datetime = NOW


def lost(index: int, what: str, cause: str) -> Event:
    return Event("NodeLost", f"Node {index} (pod digits-{index}) {what}; cause: {cause}", warning=True)


def restarted(job: TorchrunJob, code: int) -> TorchrunJob:
    """Return the job with that many restarts with the cause code."""
    status = job.status.model_copy(update={"restarts": Restarts(code=code)})
    return job.model_copy(update={"status": status})


def check_case(case: Case) -> None:
    """Compare the complete decision, and the state, the counts and the conditions in its status."""
    found = decide(case.job, case.observed, case.now)
    assert replace(found, status=NOTHING, host=None) == case.expected
    holds = tuple(c.reason for c in found.status.conditions if c.status is ConditionStatus.TRUE)
    assert (found.status.state, holds, found.status.restarts) == (case.state, case.true, case.restarts)


def check_again(case: Case) -> None:
    """Decide again with the written status: nothing counts twice, no event repeats, and the status settles."""
    first = decide(case.job, case.observed, case.now)
    again = decide(stored(case.job, first), case.observed, case.now)
    assert (again.restarts, [event for event in again.events if event.warning]) == ({}, [])
    assert again.status.restarts == first.status.restarts
    third = decide(stored(case.job, again), case.observed, case.now + timedelta(seconds=1))
    assert third.status == again.status
