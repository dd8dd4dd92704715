"""The one line that says why a job is in its state."""

import pytest

from builders import NOW, at
from torchrun_operator.api.conditions import Condition, ConditionStatus, ConditionType, Reason
from torchrun_operator.api.v1alpha1 import Failure, JobState, MembershipChange
from torchrun_operator.core.status.headline import headline


def condition(type_: ConditionType, reason: Reason, message: str, *, true: bool = False) -> Condition:
    status = ConditionStatus.TRUE if true else ConditionStatus.FALSE
    return Condition(type=type_, status=status, reason=reason, message=message, last_transition_time=NOW)


ACCEPTED = condition(ConditionType.ACCEPTED, Reason.VALID, "valid", true=True)
UNPLACED = condition(ConditionType.SCHEDULED, Reason.WAITING_FOR_CAPACITY, "no GPU")
UNCREATED = condition(ConditionType.SCHEDULED, Reason.WAITING_FOR_PODS, "0 of 2 node pods")
STARTING = condition(ConditionType.RUNNING, Reason.PODS_WAITING, "no image")
TRAINS = condition(ConditionType.RUNNING, Reason.TRAINING, "2 of 2 nodes train", true=True)
SETTLED = condition(ConditionType.RESIZING, Reason.SETTLED, "no change")
SHORT = condition(ConditionType.RESIZING, Reason.SHORT_OF_NODES, "1 of 2 nodes train: quota")
LOST = condition(ConditionType.RESIZING, Reason.NODE_LOST, "lost: digits-1", true=True)
SLOW = condition(ConditionType.STRAGGLING, Reason.SLOW_WORKER, "rank 1 is slow", true=True)
EVEN = condition(ConditionType.STRAGGLING, Reason.EVEN_PACE, "even")


@pytest.mark.parametrize(
    ("state", "conditions", "line"),
    [
        (JobState.PENDING, [], ""),
        (JobState.PENDING, [UNPLACED, STARTING], "no GPU"),
        (JobState.PENDING, [UNCREATED, STARTING], "no image"),
        (JobState.STARTING, [UNPLACED, STARTING], "no image"),
        (JobState.RUNNING, [ACCEPTED, TRAINS, SETTLED], "2 of 2 nodes train"),
        (JobState.RUNNING, [TRAINS, SETTLED, EVEN], "2 of 2 nodes train"),
        (JobState.RUNNING, [TRAINS, SETTLED, SLOW], "rank 1 is slow"),
        (JobState.RUNNING, [TRAINS, SHORT, SLOW], "1 of 2 nodes train: quota"),
        (JobState.RESIZING, [TRAINS, LOST, SLOW], "lost: digits-1"),
        (JobState.INVALID, [condition(ConditionType.ACCEPTED, Reason.REFUSED_BY_CLUSTER, "quota"), TRAINS], "quota"),
        (JobState.SUSPENDED, [condition(ConditionType.SUSPENDED, Reason.SUSPENDED, "no pods", true=True)], "no pods"),
        (JobState.COMPLETE, [condition(ConditionType.COMPLETE, Reason.FINISHED, "all succeeded", true=True)],
         "all succeeded"),
        (JobState.FAILED, [condition(ConditionType.FAILED, Reason.MAX_RESTARTS_EXCEEDED, "a\n  b", true=True)], "a b"),
        (JobState.FAILED, [condition(ConditionType.FAILED, Reason.MAX_RESTARTS_EXCEEDED, "x" * 300, true=True)],
         "x" * 255 + "…"),
        (JobState.RUNNING, [condition(ConditionType.RUNNING, Reason.TRAINING, "x" * 256, true=True)], "x" * 256),
        (JobState.STARTING, [STARTING.model_copy(update={"reason": "OfAnOtherVersion"})], "no image"),
    ],
)  # fmt: skip
def test_headline(state: JobState, conditions: list[Condition], line: str) -> None:
    assert headline(state, conditions) == line


RESTARTS = condition(ConditionType.RESIZING, Reason.RESTARTING_WORKERS, "workers restart", true=True)
CHANGE = MembershipChange(time=NOW, cause="code")
RECOVERED = CHANGE.model_copy(update={"time": at(-59), "recovery_seconds": 4.5})
FAILURE = Failure(time=NOW, cause="code", pod="digits-0", rank=0, exit_code=1, message="ValueError: x")


@pytest.mark.parametrize(
    ("state", "change", "failure", "line"),
    [
        (JobState.RESIZING, CHANGE, FAILURE,
         "workers restart; before that, rank 0 (pod digits-0) failed first: ValueError: x (exit code 1)"),
        (JobState.RESIZING, RECOVERED.model_copy(update={"time": at(-60)}), FAILURE, "workers restart"),
        (JobState.RESIZING, CHANGE.model_copy(update={"cause": "resize"}), FAILURE, "workers restart"),
        (JobState.RESIZING, CHANGE, FAILURE.model_copy(update={"cause": "infrastructure"}), "workers restart"),
        (JobState.RESIZING, CHANGE, None, "workers restart"),
        (JobState.RESIZING, None, FAILURE, "workers restart"),
        (JobState.RUNNING, RECOVERED, FAILURE,
         "2 of 2 nodes train; before that, rank 0 (pod digits-0) failed first: ValueError: x (exit code 1)"),
        (JobState.RUNNING, RECOVERED.model_copy(update={"time": at(-60)}), FAILURE, "2 of 2 nodes train"),
        (JobState.FAILED, CHANGE, FAILURE, ""),
        (JobState.STARTING, CHANGE, FAILURE.model_copy(update={"message": "no\n  data"}),
         "2 of 2 nodes train; before that, rank 0 (pod digits-0) failed first: no data (exit code 1)"),
    ],
)  # fmt: skip
def test_headline_of_a_job_that_recovers(
    state: JobState, change: MembershipChange | None, failure: Failure | None, line: str
) -> None:
    assert headline(state, [TRAINS, RESTARTS], change, failure, NOW) == line
