"""spec.failurePolicy: the first rule that matches a failure of the code decides what it leads to."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from builders import NOW, THREE, at, decide, failed, failing, instead, left, make_rendezvous, seen, stored, training_job
from torchrun_operator.api.conditions import ConditionType, find_condition
from torchrun_operator.api.v1alpha1 import FailureRule, Restarts, TorchrunJobStatus
from torchrun_operator.core.facts.model import Facts
from torchrun_operator.core.facts.words import Words
from torchrun_operator.core.policies.plan import Deletion

RULES: list[dict[str, Any]] = [
    {"action": "FailJob", "exitCodes": {"values": [2, 42]}},
    {"action": "Ignore", "signals": ["SIGBUS"], "reasons": ["WorkersFailed"]},
    {"action": "Ignore", "messages": ["NCCL error", "CUDA error"]},
    {"action": "Ignore", "exitCodes": {"operator": "NotIn", "values": [0, 1]}},
    {"action": "Count", "reasons": ["OOMKilled"]},
]
ROUND = make_rendezvous(*THREE)


def workers(exit_code: int | None, message: str = "") -> Facts:
    """Return facts in which a worker of node 1 has failed, and the others wait for it."""
    after = replace(left(ROUND, 1, NOW, "10.0.1.1"), round=1, complete=False, members=())
    return seen(
        *THREE, rendezvous=after, said={"digits-1": Words(message, exit_code=exit_code, local_rank=0, time=NOW)}
    )


def judged(found: Facts, rules: list[dict[str, Any]] | None = None, **spec: Any) -> TorchrunJobStatus:
    """Return the status after the failure of workers or of a pod has been counted."""
    job = failing(training_job(failurePolicy={"rules": RULES if rules is None else rules}, **spec))
    return stored(job, decide(job, found, NOW)).status


def pod(code: int, reason: str, message: str = "", *, container: str = "", words: Words | None = None) -> Facts:
    """Return facts in which the container of node 1 has ended so, and its log has these words."""
    said = {"digits-1": words} if words is not None else {}
    return seen(*instead(THREE, failed(1, code, reason, message, container=container)), rendezvous=ROUND, said=said)


POD = instead(THREE, failed(1, 3, "Error", "x"))
COUNTED, IGNORED = Restarts(code=1), Restarts(infrastructure=1)


@pytest.mark.parametrize(
    ("found", "restarts", "rule"),
    [
        pytest.param(workers(1, "ValueError"), COUNTED, None, id="no rule"),
        pytest.param(workers(42), COUNTED, (0, "FailJob"), id="an exit code"),
        pytest.param(workers(-7), IGNORED, (1, "Ignore"), id="a signal and a reason"),
        pytest.param(workers(-11), COUNTED, None, id="another signal, which is no exit code"),
        pytest.param(workers(1, "RuntimeError: CUDA error: device lost"), IGNORED, (2, "Ignore"), id="a message"),
        pytest.param(workers(5), IGNORED, (3, "Ignore"), id="another exit code than these"),
        pytest.param(workers(None), COUNTED, None, id="nothing is known"),
        pytest.param(seen(*POD, rendezvous=ROUND), IGNORED, (3, "Ignore"), id="a container"),
        pytest.param(pod(137, "OOMKilled"), IGNORED, (3, "Ignore"), id="the exit code of a killed container"),
        pytest.param(pod(1, "Error", words=Words("x", exit_code=42)), COUNTED, (0, "FailJob"), id="in its log"),
        pytest.param(pod(1, "Error", words=Words("x", exit_code=-7)), COUNTED, None, id="a signal in its log"),
        pytest.param(pod(3, "Error", words=Words("x", exit_code=42)), IGNORED, (3, "Ignore"), id="not of torchrun"),
        pytest.param(pod(42, "Error", container="proxy"), COUNTED, None, id="another container"),
        pytest.param(
            pod(1, "Error", words=Words("RuntimeError: step 120", "...", text=f"NCCL error\n{9000 * 'x'}")),
            *(IGNORED, (2, "Ignore")),
            id="a message in the middle of a long traceback",
        ),
    ],
)
def test_the_first_rule_that_matches_decides(found: Facts, restarts: Restarts, rule: tuple[int, str] | None) -> None:
    status = judged(found)
    assert status.restarts == restarts
    assert status.last_failure is not None
    assert (status.last_failure.rule, status.last_failure.action) == (rule or (None, None))
    assert status.last_failure.cause == ("code" if restarts.code else "infrastructure")
    failed_now = find_condition(status.conditions, ConditionType.FAILED)
    assert (failed_now is not None) is (rule is not None and rule[1] == "FailJob")


def test_a_reason() -> None:
    status = judged(pod(137, "OOMKilled"), [{"action": "FailJob", "reasons": ["OOMKilled"]}], maxRestarts=9)
    assert find_condition(status.conditions, ConditionType.FAILED) is not None


def test_workers_that_fail_several_times_at_once_are_judged_by_the_last_time() -> None:
    many = workers(-7)
    rendezvous = many.rendezvous
    assert rendezvous is not None
    found = replace(many, rendezvous=left(rendezvous, 3, NOW, "10.0.1.1"))
    assert judged(found).restarts == Restarts(infrastructure=3)
    assert find_condition(judged(found, maxRestarts=0).conditions, ConditionType.FAILED) is None


@pytest.mark.parametrize(
    ("seconds", "deletions", "message"),
    [
        pytest.param(
            60,
            (Deletion("digits-1", "pod-1-1", "failed again in a way that spec.failurePolicy ignores", None),),
            "Workers failed again, and pod digits-1 is replaced; rank 1 (pod digits-1) failed first: "
            "a worker was ended by SIGBUS (exit code -7, SIGBUS); rule 2 of spec.failurePolicy says Ignore",
            id="soon",
        ),
        pytest.param(
            601,
            (),
            "Workers failed and restart in place; rank 1 (pod digits-1) failed first: "
            "a worker was ended by SIGBUS (exit code -7, SIGBUS); rule 2 of spec.failurePolicy says Ignore",
            id="much later",
        ),
    ],
)
def test_workers_that_fail_again_and_are_ignored_get_a_new_pod(
    seconds: float, deletions: tuple[Deletion, ...], message: str
) -> None:
    first = judged(workers(-7))
    assert first.last_failure is not None
    earlier = first.last_failure.model_copy(update={"time": at(-seconds)})
    job = failing(training_job(failurePolicy={"rules": RULES}))
    job = job.model_copy(update={"status": job.status.model_copy(update={"last_failure": earlier})})
    found = decide(job, workers(-7), NOW)
    assert found.plan.deletions == deletions
    assert [event.message for event in found.events if event.reason == "WorkersFailed"] == [message]
    status = stored(job, found).status
    assert status.restarts == IGNORED
    assert [node.phase for node in status.nodes] == ["Running", "Terminating" if deletions else "Running", "Running"]
    assert [node.back_off.failures for node in status.nodes if node.back_off] == [1 for _ in deletions]
    assert status.membership.last_change is not None
    assert status.membership.last_change.cause == "infrastructure"


def test_the_event_of_a_pod_names_the_rule() -> None:
    job = training_job(failurePolicy={"rules": RULES})
    found = decide(job, pod(3, "Error", "x"), NOW)
    said = "exited with code 3 (Error): x; rule 4 of spec.failurePolicy says Ignore; cause: infrastructure"
    assert [event.message for event in found.events if event.reason == "NodeLost"] == [f"Node 1 (pod digits-1) {said}"]


@pytest.mark.parametrize(
    ("rule", "where"),
    [
        ({"exitCodes": {"values": [256]}}, "exitCodes.values.0"),
        ({"exitCodes": {"values": []}}, "exitCodes.values"),
        ({"signals": ["SIGFOO"]}, "signals.0"),
        ({"signals": ["SIGCHLD"]}, "signals.0"),
    ],
)
def test_what_never_matches_is_refused(rule: dict[str, Any], where: str) -> None:
    with pytest.raises(ValidationError) as caught:
        FailureRule.model_validate({"action": "FailJob", **rule})
    assert [".".join(map(str, error["loc"])) for error in caught.value.errors()][:1] == [where]


def test_a_rule_fails_the_job_with_restarts_left() -> None:
    condition = find_condition(
        judged(workers(2, "error: unrecognized arguments"), maxRestarts=100).conditions, ConditionType.FAILED
    )
    assert condition is not None
    assert condition.reason == "FailurePolicy"
    assert condition.message == (
        "rank 1 (pod digits-1) failed first: error: unrecognized arguments (exit code 2); rule 1 of spec.failurePolicy "
        "says FailJob; see kubectl -n team logs digits-1 -c trainer"
    )


def test_an_ignored_failure_does_not_use_up_the_restarts() -> None:
    status = judged(workers(-7), maxRestarts=0)
    assert find_condition(status.conditions, ConditionType.FAILED) is None
    assert find_condition(judged(workers(-7), rules=[], maxRestarts=0).conditions, ConditionType.FAILED) is not None


def test_a_rule_without_conditions_matches_every_failure() -> None:
    rules: list[dict[str, Any]] = [{"action": "Count", "exitCodes": {"values": [1]}}, {"action": "FailJob"}]
    assert find_condition(judged(workers(1), rules).conditions, ConditionType.FAILED) is None
    assert find_condition(judged(workers(-11), rules).conditions, ConditionType.FAILED) is not None


def test_rules_say_nothing_about_lost_nodes() -> None:
    lost = seen(*instead(THREE, failed(1, 137)), rendezvous=ROUND)
    status = judged(lost, [{"action": "FailJob"}])
    assert status.restarts == IGNORED
    assert status.last_failure is not None
    assert status.last_failure.rule is None


def test_nodes_that_fail_together_are_ignored_once() -> None:
    first = judged(seen(*POD, rendezvous=ROUND))
    job = training_job(failurePolicy={"rules": RULES}).model_copy(update={"status": first})
    both = instead(POD, failed(2, 3, "Error", "x"))
    after = stored(job, decide(job, seen(*both, rendezvous=ROUND), NOW)).status
    assert after.restarts == first.restarts
