"""One event for each condition that changes, none for the others."""

from datetime import datetime

import pytest

from builders import NOW
from torchrun_operator.api.conditions import Condition, ConditionStatus
from torchrun_operator.api.v1alpha1 import TorchrunJobStatus
from torchrun_operator.core.events import Event, transitions


def status(*conditions: tuple[str, bool, str], now: datetime = NOW) -> TorchrunJobStatus:
    return TorchrunJobStatus(
        conditions=tuple(
            Condition(
                type=type_,
                status=ConditionStatus.TRUE if true else ConditionStatus.FALSE,
                reason=f"{type_}{true}",
                message=message,
                last_transition_time=now,
            )
            for type_, true, message in conditions
        )
    )


NEW = status()
CASES: dict[str, tuple[TorchrunJobStatus, TorchrunJobStatus, tuple[Event, ...]]] = {
    "nothing": (NEW, NEW, ()),
    "a new job": (
        NEW,
        status(("Accepted", True, "ok"), ("Suspended", False, ""), ("Scheduled", False, ""), ("Resizing", False, "")),
        (),
    ),
    "a new job that cannot run": (
        NEW,
        status(("Accepted", False, "no template")),
        (Event("AcceptedFalse", "no template", warning=True),),
    ),
    "it trains": (
        status(("Running", False, "")),
        status(("Running", True, "3 of 3")),
        (Event("RunningTrue", "3 of 3"),),
    ),
    "it continues with other members": (status(("Running", True, "3 of 3")), status(("Running", True, "2 of 3")), ()),
    "it does not train for now": (status(("Running", True, "")), status(("Running", False, "")), ()),
    "a change has settled": (
        status(("Resizing", True, "")),
        status(("Resizing", False, "settled")),
        (Event("ResizingFalse", "settled"),),
    ),
    "rejected for another reason": (
        status(("Accepted", False, "quota")),
        status(("Accepted", False, "webhook")),
        (Event("AcceptedFalse", "webhook", warning=True),),
    ),
    "refused still": (status(("Accepted", False, "quota")), status(("Accepted", False, "quota")), ()),
    "accepted at last": (
        status(("Accepted", False, "quota")),
        status(("Accepted", True, "ok")),
        (Event("AcceptedTrue", "ok"),),
    ),
    "it fails": (
        status(("Running", True, "")),
        status(("Running", False, ""), ("Failed", True, "too often")),
        (Event("FailedTrue", "too often", warning=True),),
    ),
    "it completes": (NEW, status(("Complete", True, "all")), (Event("CompleteTrue", "all"),)),
}


@pytest.mark.parametrize(("old", "new", "expected"), CASES.values(), ids=CASES)
def test_transitions(old: TorchrunJobStatus, new: TorchrunJobStatus, expected: tuple[Event, ...]) -> None:
    assert transitions(old, new) == expected
