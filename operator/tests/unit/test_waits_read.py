"""Why a pod waits, from its status as the kubelet writes it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from torchrun_operator.core.facts.model import NO_WAIT, Exit, Wait
from torchrun_operator.core.facts.waiting import waiting

NOT_INITIALIZED = {"type": "Initialized", "status": "False", "reason": "ContainersNotInitialized"}
PROXY_RUNS = {"name": "proxy", "state": {"running": {"startedAt": "2026-01-31T11:00:03Z"}}, "started": True}
PROXY_FAILS = {
    "name": "proxy",
    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
    "lastState": {"terminated": {"exitCode": 7, "reason": "Error", "message": "no config\n"}},
}
FETCH_RUNS = {"name": "fetch", "state": {"running": {"startedAt": "2026-01-31T11:00:04Z"}}, "started": True}
LATER = {"name": "later", "state": {"waiting": {"reason": "PodInitializing"}}, "started": False}


def trainer(state: str, **words: Any) -> list[Any]:
    return [{"name": "trainer", "state": {state: words}}]


STATUSES: dict[str, tuple[Any, Wait]] = {
    "an init container runs, after a sidecar": (
        {
            "conditions": [NOT_INITIALIZED],
            "initContainerStatuses": [PROXY_RUNS, FETCH_RUNS, LATER],
            "containerStatuses": trainer("waiting", reason="PodInitializing"),
        },
        Wait("PodInitializing", container="fetch", since=datetime(2026, 1, 31, 11, 0, 4, tzinfo=UTC)),
    ),
    "initialized, its sidecar runs on": (
        {
            "conditions": [{"type": "Initialized", "status": "True"}],
            "initContainerStatuses": [PROXY_RUNS],
            "containerStatuses": trainer("waiting", reason="PodInitializing"),
        },
        NO_WAIT,
    ),
    "a sidecar fails again and again before the trainer starts": (
        {
            "initContainerStatuses": [PROXY_FAILS],
            "containerStatuses": trainer("waiting", reason="PodInitializing"),
        },
        Wait("CrashLoopBackOff", "back-off 10s", "proxy", Exit(7, "Error", "no config", None)),
    ),
    "a sidecar fails again and again while the trainer runs": (
        {"initContainerStatuses": [PROXY_FAILS], "containerStatuses": trainer("running")},
        NO_WAIT,
    ),
    "a sidecar fails again and again after the trainer has ended": (
        {"initContainerStatuses": [PROXY_FAILS], "containerStatuses": trainer("terminated", exitCode=0)},
        NO_WAIT,
    ),
}


@pytest.mark.parametrize(("status", "expected"), STATUSES.values(), ids=STATUSES)
def test_waiting(status: Any, expected: Wait) -> None:
    assert waiting(status, "trainer") == expected
