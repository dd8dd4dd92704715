"""Leftovers: pods that are being deleted and do not end, although their kubelet answers. Their nodes get other pods."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from torchrun_operator.core.facts.model import Facts, NodePod, Phase
from torchrun_operator.core.findings.wanted import Wanted
from torchrun_operator.core.phrases import named

_LATE = timedelta(seconds=5)
"""The round no longer waits for the replacement of a pod that ends this long after its grace period."""
_GIVEN_UP = timedelta(seconds=60)
"""A kubelet ends a pod within this time after its grace period, unless a process cannot be killed."""
_HELD = timedelta(seconds=10)
"""The same where the containers have ended: only finalizers or volumes keep the pod."""


@dataclass(frozen=True)
class Leftovers:
    """The wanted nodes whose pods do not end."""

    late: Mapping[int, str] = field(default_factory=dict)
    """Why the pod has not ended in time, for people, by index."""
    given_up: frozenset[int] = frozenset()
    """Those that get another pod now."""
    untold: Mapping[str, str] = field(default_factory=dict)
    """The pods that no status has recorded as given up, by name, and why they have not ended."""
    later: tuple[datetime, ...] = ()
    """When others become late, or are given up."""


def leftovers(facts: Facts, wanted: Wanted) -> Leftovers:
    """Return the pods that do not end. The rendezvous host keeps their agents out."""
    late: dict[int, str] = {}
    given_up: dict[int, NodePod] = {}
    later: list[datetime] = []
    for node in facts.nodes:
        if node.phase is not Phase.TERMINATING or node.stop_requested_at is None or node.index >= wanted.pods:
            continue
        due, end = _times(node, node.stop_requested_at)
        later += [time for time in (due, end) if time > facts.now]
        if due <= facts.now:
            late[node.index] = _why(node)
        if end <= facts.now:
            given_up[node.index] = node
    told = {node.uid for node in facts.job.status.nodes if node.phase == Phase.LOST}
    untold = {node.name: late[index] for index, node in given_up.items() if node.uid not in told}
    return Leftovers(late, frozenset(given_up), untold, tuple(later))


def _times(node: NodePod, since: datetime) -> tuple[datetime, datetime]:
    """Return when the pod is late, and when it is given up."""
    if node.exit is not None:
        return since + _LATE, since + _HELD
    grace_ends = since + timedelta(seconds=node.grace_seconds)
    return grace_ends + _LATE, grace_ends + _GIVEN_UP


def _why(node: NodePod) -> str:
    if node.finalizers:
        return f"is being deleted, and its finalizers ({named(node.finalizers)}) keep it"
    if node.exit is not None:
        return "is being deleted, and has not gone although its trainer container has ended"
    return (
        f"is being deleted, and still runs after its grace period of {node.grace_seconds} s; "
        f"see kubectl describe node {node.machine}"
    )
