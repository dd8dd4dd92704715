"""Nodes that wait for a store that is gone, and nodes that only look so."""

from dataclasses import replace
from typing import Any

import pytest

from builders import COLD, THREE, after, at, make_node, make_rendezvous, seen, training_job
from decision_cases import ALL, Case, check_again, check_case, decision, lost, target
from torchrun_operator.api.v1alpha1 import Restarts, TorchrunJob
from torchrun_operator.core.facts.model import Cause
from torchrun_operator.core.findings.stuck import StuckReason
from torchrun_operator.core.policies.plan import Deletion

ANOTHER = replace(make_rendezvous(THREE[0], complete=False), instance="bb")
"""A restarted host. The agent of node 0 ended with the former one, and its next agent has joined."""


def orphaned(seconds: float, **spec: Any) -> TorchrunJob:
    """Return a job that trained, and whose operator saw the restarted host that many seconds ago."""
    return after(training_job(**spec), seen(*THREE, rendezvous=ANOTHER), at(-seconds))


CASES = {
    "the store is gone without closing connections, and another one runs": Case(
        orphaned(5, **COLD),
        seen(*THREE, rendezvous=ANOTHER),
        decision(
            target=target(),
            deletions=(
                Deletion("digits-1", "pod-1-1", StuckReason.ORPHANED, 5),
                Deletion("digits-2", "pod-2-1", StuckReason.ORPHANED, 5),
            ),
            events=(lost(1, StuckReason.ORPHANED, "infrastructure"), lost(2, StuckReason.ORPHANED, "infrastructure")),
            restarts={Cause.INFRASTRUCTURE: 2},
        ),
        "Resizing",
        ("Valid", "AllScheduled", "NodeLost"),
        Restarts(infrastructure=2),
    ),
    "most agents end by themselves soon": Case(
        orphaned(3, **COLD),
        seen(*THREE, rendezvous=ANOTHER),
        decision(target=target(), look_again_seconds=2.0),
        "Resizing",
        ("Valid", "AllScheduled", "RestartingWorkers"),
    ),
    "a member has left the first round of the store, and may join the next one": Case(
        after(training_job(), seen(*THREE, rendezvous=ALL), at(-60)),
        seen(*THREE, rendezvous=make_rendezvous(*THREE[:2], complete=False, completed_at=at(-30))),
        decision(target=target()),
        "Resizing",
        ("Valid", "AllScheduled", "RestartingWorkers"),
    ),
    "agents that outlive their store have longer to find the next one": Case(
        orphaned(58),
        seen(*THREE, rendezvous=ANOTHER),
        decision(target=target(), look_again_seconds=2.0),
        "Resizing",
        ("Valid", "AllScheduled", "RestartingWorkers"),
    ),
    "pods that never trained may still be starting": Case(
        orphaned(5, **COLD),
        seen(THREE[0], make_node(1, life=2), make_node(2, life=2), rendezvous=ANOTHER),
        decision(
            target=target(),
            events=(lost(1, "was deleted", "infrastructure"), lost(2, "was deleted", "infrastructure")),
            restarts={Cause.INFRASTRUCTURE: 2},
        ),
        "Resizing",
        ("Valid", "AllScheduled", "NodeLost"),
        Restarts(infrastructure=2),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_orphans(case: Case) -> None:
    check_case(case)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_orphans_again(case: Case) -> None:
    check_again(case)
