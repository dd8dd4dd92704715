"""The complete status of each situation, as golden files, and rules for every status."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import (
    CREATED,
    DIGEST,
    HOST,
    NOW,
    THREE,
    after,
    at,
    decide,
    facts,
    failed,
    instead,
    make_job,
    make_node,
    make_rendezvous,
    seen,
    stored,
    suspended,
    terminating,
    training_job,
    without,
)
from golden import check_golden
from torchrun_operator.api.conditions import Reason
from torchrun_operator.api.v1alpha1 import MembershipChange, TorchrunJob, TorchrunJobStatus
from torchrun_operator.core.facts.model import Cause, Facts, Phase, Wait
from torchrun_operator.core.status.accepted import unaccepted
from torchrun_rendezvous.protocol import Progress

GOLDEN = Path(__file__).parent / "golden" / "status"
ALL = make_rendezvous(*THREE, completed_at=CREATED)
REPLACED = instead(THREE, make_node(1, life=2))
NO_GPU = "0/5 nodes are available: 5 Insufficient nvidia.com/gpu."
SILENCE = "Kubernetes node m1 is not ready: its kubelet is silent"


def progress(step: int, seconds: float, **more: Any) -> Progress:
    return Progress(step=step, time=at(seconds), total_steps=1000, world_size=3, **more)


def recovered(seconds: float, completed: float, step: int = 95) -> TorchrunJob:
    """Return a job that lost a node at NOW, at step 100, and the facts after it trains in round 2."""
    job = training_job()
    job = after(job, seen(*THREE, rendezvous=replace(ALL, progress=progress(100, -1))), at(-1))
    job = after(job, seen(*without(THREE, 1), rendezvous=replace(ALL, progress=progress(100, -1))))
    state = make_rendezvous(*REPLACED, round=2, completed_at=at(completed), progress=progress(step, seconds))
    return after(job, seen(*REPLACED, rendezvous=state), at(20))


FULL = Progress(
    step=420,
    time=at(-2),
    total_steps=1000,
    epoch=4,
    loss=0.25,
    samples_per_second=1234.5,
    world_size=24,
    snapshot_step=400,
    snapshot_time=at(-60),
)

UNPLACED = make_node(2, Phase.PENDING, wait=Wait("Unschedulable", NO_GPU))
NO_IMAGE = make_node(0, Phase.STARTING, wait=Wait("ImagePullBackOff", "no such image train:1"))
HOST_WITHOUT_IMAGE = replace(HOST, phase=Phase.STARTING, wait=Wait("ErrImagePull", "no such image train:1"))

SITUATIONS: dict[str, tuple[TorchrunJob, Facts]] = {
    "new": (make_job(), facts()),
    "unschedulable": (after(make_job(), facts()), seen(*THREE[:2], UNPLACED)),
    "unheard": (after(make_job(), facts()), seen(*THREE, rendezvous_pod=replace(HOST, started_at=at(-21)))),
    "short-of-nodes": (
        training_job(*THREE[:2]),
        seen(*THREE[:2], UNPLACED, rendezvous=make_rendezvous(*THREE[:2], completed_at=CREATED)),
    ),
    "machine-lost": (
        training_job(),
        seen(*instead(THREE, make_node(1, Phase.LOST, trouble=SILENCE))),
    ),
    "no-image": (after(make_job(), facts()), seen(NO_IMAGE, make_node(1, Phase.STARTING))),
    "rendezvous-without-image": (after(make_job(), facts()), seen(*THREE, rendezvous_pod=HOST_WITHOUT_IMAGE)),
    "waits-for-nodes": (
        after(make_job(), facts()),
        seen(*THREE, rendezvous=make_rendezvous(THREE[0], round=0, complete=False)),
    ),
    "trains": (training_job(), seen(*THREE, rendezvous=ALL)),
    "trains-with-progress": (
        training_job(nprocPerNode="gpu"),
        seen(*THREE, rendezvous=replace(ALL, progress=FULL)),
    ),
    "node-lost": (training_job(), seen(*without(THREE, 1), rendezvous=ALL)),
    "node-dying": (training_job(), seen(*instead(THREE, terminating(THREE[1])), rendezvous=ALL)),
    "recovered": (recovered(12, 10), seen(*REPLACED, rendezvous=make_rendezvous(*REPLACED, round=2))),
    "suspending": (suspended(training_job()), seen(*THREE, rendezvous=ALL)),
    "suspended": (after(suspended(training_job()), seen(*THREE)), facts()),
    "refused": (make_job(), facts(refusal='pods "digits-0" is forbidden: exceeded quota: team')),
    "name-taken": (make_job(), facts(foreign=tuple(f"digits-{index}" for index in range(9)))),
    "complete": (
        training_job(),
        seen(*(make_node(i, Phase.SUCCEEDED) for i in range(3)), rendezvous=replace(ALL, closed=True)),
    ),
    "failed": (
        training_job(maxRestarts=0),
        seen(*instead(THREE, failed(1, 137, "OOMKilled")), rendezvous=ALL),
    ),
}


@pytest.mark.parametrize(("job", "observed"), SITUATIONS.values(), ids=SITUATIONS)
def test_status(job: TorchrunJob, observed: Facts, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.id
    check_golden(GOLDEN / f"{name}.yaml", decide(job, observed, NOW).status.wire())


@pytest.mark.parametrize(("job", "observed"), SITUATIONS.values(), ids=SITUATIONS)
def test_status_survives_the_wire_and_a_second_pass(job: TorchrunJob, observed: Facts) -> None:
    decision = decide(job, observed, NOW)
    wire = json.loads(json.dumps(decision.status.wire()))
    assert TorchrunJobStatus.model_validate(wire) == decision.status
    again = decide(stored(job, decision), observed, NOW)
    third = decide(stored(job, again), observed, at(90))
    assert third.status.wire() == again.status.wire()


CHANGE = {"time": NOW, "cause": Cause.INFRASTRUCTURE}


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (recovered(12.5, 10), MembershipChange(**CHANGE, recovery_seconds=12.5, lost_steps=6)),
        (recovered(12.5, 10, step=101), MembershipChange(**CHANGE, recovery_seconds=12.5, lost_steps=0)),
        (recovered(-1, 10, step=100), MembershipChange(**CHANGE)),
        (recovered(0.5, -300, step=101), MembershipChange(**CHANGE)),
    ],
    ids=["it trains again", "nothing was lost", "no step since", "the old round has not noticed yet"],
)
def test_recovery(job: TorchrunJob, expected: MembershipChange) -> None:
    assert job.status.membership.last_change == expected


def test_unaccepted_says_why_and_keeps_the_rest() -> None:
    old = training_job().status
    new = unaccepted(old, 7, Reason.INVALID_SPEC, "spec.replicas: too many", NOW)
    accepted = new.conditions[0]
    assert (accepted.type, accepted.status, accepted.reason, accepted.message, accepted.observed_generation) == (
        "Accepted",
        "False",
        "InvalidSpec",
        "spec.replicas: too many",
        7,
    )
    kept = {
        "conditions": new.conditions,
        "state": "Invalid",
        "message": "spec.replicas: too many",
        "observed_generation": 7,
    }
    assert new == old.model_copy(update=kept)
    assert unaccepted(new, 7, Reason.INVALID_SPEC, "spec.replicas: too many", at(60)) == new


def test_status_of_the_largest_job_is_far_from_what_etcd_can_hold() -> None:
    count = 1000
    nodes = tuple(
        replace(
            make_node(index),
            name=f"{'j' * 54}-{index}",
            uid=f"{index:08d}-89ab-cdef-0123-456789abcdef",
            machine=f"gke-europe-west4-a100-pool-{index:08d}-{'x' * 20}",
            address=f"10.123.{index // 250}.{index % 250}",
        )
        for index in range(count)
    )
    job = training_job(*nodes, nnodes=count, replicas=count)
    status = decide(job, seen(*nodes, rendezvous=make_rendezvous(*nodes)), NOW).status
    assert (status.state, status.membership.nodes, len(status.nodes)) == ("Running", count, count)
    assert len(json.dumps(status.wire())) < 350_000


def test_status_of_a_large_job_with_everything_lost_is_bounded_too() -> None:
    nodes = tuple(make_node(index) for index in range(1000))
    job = training_job(*nodes, nnodes=1000, replicas=1000)
    status = decide(job, facts(token_digest=DIGEST), NOW).status
    assert len(json.dumps(status.wire())) < 350_000
    assert {node.phase for node in status.nodes} == {"Lost"}
    assert max(len(condition.message) for condition in status.conditions) < 300
