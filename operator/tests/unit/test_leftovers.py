"""Pods that are being deleted and do not end: when they are late, when they are given up, and what is said of them."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from builders import NOW, at, facts, make_job, make_node, terminating
from torchrun_operator.api.v1alpha1 import NodeStatus, TorchrunJobStatus
from torchrun_operator.core.facts.model import Exit, NodePod, Phase
from torchrun_operator.core.facts.pods import gather
from torchrun_operator.core.findings.leftovers import Leftovers, leftovers
from torchrun_operator.core.findings.membership import leavers
from torchrun_operator.core.findings.wanted import Wanted

THREE = Wanted(3, 0, 2)
RUNS = "is being deleted, and still runs after its grace period of 30 s; see kubectl describe node machine-1"
ENDED = "is being deleted, and has not gone although its trainer container has ended"
KEPT = "is being deleted, and its finalizers (queue.example.com/managed) keep it"
EXIT = Exit(143, "Error", "", None)


def going(seconds: float, index: int = 1, **changes: Any) -> NodePod:
    """Return a pod whose deletion was requested that long ago, with a grace period of 30 s."""
    requested = NOW - timedelta(seconds=seconds)
    return terminating(make_node(index), **{"stop_requested_at": requested, "grace_seconds": 30, **changes})


CASES: dict[str, tuple[NodePod, Leftovers]] = {
    "runs": (make_node(1), Leftovers()),
    "within its grace period": (going(20), Leftovers(later=(at(15), at(70)))),
    "a moment after it": (going(31), Leftovers(later=(at(4), at(59)))),
    "late": (going(40), Leftovers({1: RUNS}, later=(at(50),))),
    "given up": (going(90), Leftovers({1: RUNS}, frozenset({1}), {"digits-1": RUNS})),
    "given up, with a long grace period": (going(90, grace_seconds=600), Leftovers(later=(at(515), at(570)))),
    "ended a moment ago": (going(2, exit=EXIT), Leftovers(later=(at(3), at(8)))),
    "ended, late": (going(7, exit=EXIT), Leftovers({1: ENDED}, later=(at(3),))),
    "ended, given up": (going(10, exit=EXIT), Leftovers({1: ENDED}, frozenset({1}), {"digits-1": ENDED})),
    "ended, kept by a finalizer": (
        going(10, exit=EXIT, finalizers=("queue.example.com/managed",)),
        Leftovers({1: KEPT}, frozenset({1}), {"digits-1": KEPT}),
    ),
    "surplus": (going(900, index=3), Leftovers()),
    "its Kubernetes node is lost": (replace(going(900), phase=Phase.LOST), Leftovers()),
}


@pytest.mark.parametrize(("node", "expected"), CASES.values(), ids=CASES)
def test_pods_that_do_not_end(node: NodePod, expected: Leftovers) -> None:
    assert leftovers(facts(nodes=(node,)), THREE) == expected


def test_what_the_status_records_is_told_once() -> None:
    node = going(90)
    recorded = NodeStatus(index=1, pod=node.name, uid=node.uid, phase=Phase.LOST)
    job = make_job(TorchrunJobStatus(nodes=(recorded,)))
    assert leftovers(facts(job=job, nodes=(node,)), THREE) == Leftovers({1: RUNS}, frozenset({1}))


def raw(name: str, created: str, *, deleted: bool = False) -> Any:
    return {
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "creationTimestamp": f"2026-01-31T11:00:{created}Z",
            "labels": {"torchrun.dev/role": "node", "torchrun.dev/node-index": "1"},
            "ownerReferences": [{"uid": "job-uid", "controller": True}],
            **({"deletionTimestamp": "2026-01-31T11:30:00Z", "deletionGracePeriodSeconds": 30} if deleted else {}),
        },
        "spec": {"nodeName": "m1"},
        "status": {"phase": "Running", "podIP": "10.0.0.9" if deleted else "10.0.0.8"},
    }


@pytest.mark.parametrize(
    ("pods", "current", "former"),
    [
        ((raw("digits-1", "00", deleted=True),), "digits-1", []),
        ((raw("digits-1", "00", deleted=True), raw("digits-1-r2", "09")), "digits-1-r2", ["digits-1"]),
        ((raw("digits-1", "00"), raw("digits-1-r2", "09", deleted=True)), "digits-1", ["digits-1-r2"]),
        ((raw("digits-1", "00"), raw("digits-1-r2", "09")), "digits-1-r2", ["digits-1"]),
        (
            (raw("digits-1", "00", deleted=True), raw("digits-1-r2", "09", deleted=True)),
            "digits-1-r2",
            ["digits-1"],
        ),
    ],
)
def test_each_index_has_one_pod(pods: tuple[Any, ...], current: str, former: list[str]) -> None:
    for order in (pods, pods[::-1]):
        found = gather(make_job(), NOW, order, None)
        assert ([node.name for node in found.nodes], [node.name for node in found.former]) == ([current], former)


def test_the_agents_of_former_pods_are_kept_out() -> None:
    found = gather(make_job(), NOW, (raw("digits-1", "00", deleted=True), raw("digits-1-r2", "09")), None)
    assert leavers(found, 3) == ("10.0.0.9",)
