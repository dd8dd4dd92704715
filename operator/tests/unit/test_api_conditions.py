"""Setting conditions: order, transition times, kept values."""

from datetime import UTC, datetime, timedelta

import pytest

from torchrun_operator.api.conditions import (
    Condition,
    ConditionStatus,
    ConditionType,
    Reason,
    find_condition,
    is_true,
    set_condition,
)
from torchrun_operator.api.v1alpha1.status import Failure

EARLIER = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
NOW = EARLIER + timedelta(minutes=5)
RUNNING = Condition(
    type="Running",
    status=ConditionStatus.TRUE,
    reason="Training",
    message="3 nodes train",
    last_transition_time=EARLIER,
    observed_generation=1,
)
FOREIGN = Condition(type="Audited", status=ConditionStatus.TRUE, reason="Passed", last_transition_time=EARLIER)


def test_first_condition() -> None:
    assert set_condition(
        (), ConditionType.RUNNING, True, Reason.TRAINING, "3 nodes train", now=EARLIER, generation=1
    ) == (RUNNING,)


@pytest.mark.parametrize(
    ("status", "time"),
    [
        (True, EARLIER),
        (False, NOW),
        (ConditionStatus.UNKNOWN, NOW),
    ],
)
def test_transition_time_moves_with_the_status_only(status: ConditionStatus | bool, time: datetime) -> None:
    (condition,) = set_condition(
        (RUNNING,), ConditionType.RUNNING, status, Reason.WAITING_FOR_NODES, "other words", now=NOW, generation=2
    )
    assert condition.last_transition_time == time
    assert (condition.reason, condition.message, condition.observed_generation) == ("WaitingForNodes", "other words", 2)


def test_order_does_not_depend_on_who_came_first() -> None:
    conditions: tuple[Condition, ...] = (FOREIGN,)
    for type_ in reversed(ConditionType):
        conditions = set_condition(conditions, type_, True, "Because", "", now=NOW)
    assert [condition.type for condition in conditions] == [*ConditionType, "Audited"]


def test_nothing_changes_when_nothing_changed() -> None:
    once = set_condition((FOREIGN,), ConditionType.SUSPENDED, False, Reason.NOT_SUSPENDED, "", now=EARLIER)
    assert set_condition(once, ConditionType.SUSPENDED, False, Reason.NOT_SUSPENDED, "", now=NOW) == once


def test_finding() -> None:
    assert find_condition((FOREIGN, RUNNING), ConditionType.RUNNING) == RUNNING
    assert find_condition((FOREIGN,), ConditionType.RUNNING) is None
    assert is_true((RUNNING,), ConditionType.RUNNING)
    assert not is_true((RUNNING,), ConditionType.FAILED)


def test_wire() -> None:
    assert RUNNING.wire() == {
        "type": "Running",
        "status": "True",
        "reason": "Training",
        "message": "3 nodes train",
        "lastTransitionTime": "2026-01-31T12:00:00Z",
        "observedGeneration": 1,
    }
    assert Condition.model_validate(RUNNING.wire()) == RUNNING


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("x" * 4096, "x" * 4096),
        ("x" * 1_000_000, "x" * 4095 + "…"),
        ("one\ntwo\tthree", "one\ntwo\tthree"),
        ("\x1b[2J\x00gone\r\x9b", "\ufffd[2J\ufffdgone\ufffd\ufffd"),
    ],
    ids=["longest", "longer", "lines", "control characters"],
)
def test_messages_of_others_are_cut(message: str, kept: str) -> None:
    conditions = set_condition((), ConditionType.RUNNING, False, Reason.PODS_WAITING, message, now=NOW)
    assert conditions[0].message == kept
    assert Failure(time=NOW, cause="code", message=message, reason=message, traceback=message) == Failure(
        time=NOW,
        cause="code",
        message=kept if len(kept) < 1024 else "x" * 1023 + "…",
        reason=kept if len(kept) < 128 else "x" * 127 + "…",
        traceback=kept if len(kept) < 2048 else "x" * 2047 + "…",
    )
