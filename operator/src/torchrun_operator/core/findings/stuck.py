"""Stuck nodes: they run, but cannot come to the round that forms, or has formed without them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from torchrun_operator.core.facts.model import Cause, Facts, NodePod, Phase
from torchrun_operator.core.findings.losses import Loss

_ORPHANED_AFTER = timedelta(seconds=5)
"""If the connections close together with the store, agents end within a second or two."""


class StuckReason(StrEnum):
    """Why a node is stuck, in words for people."""

    MISSING = "did not come to the next round: its agent hangs, or its Kubernetes node does"
    ORPHANED = "its agent waits for a store that has gone"


@dataclass(frozen=True)
class Stuck:
    """The running nodes that cannot come to the next round."""

    why: Mapping[str, StuckReason]
    """By uid."""
    later: tuple[datetime, ...] = ()
    """When nodes are given up that may still come."""


def stuck(facts: Facts) -> Stuck:
    """Return the nodes that are stuck.

    torchrun gives workers 30 s to stop before it kills them. A node that is not back after a minute has an agent or a
    Kubernetes node that hangs.
    """
    if facts.rendezvous is None:
        return Stuck({})
    given_up_at, uids = _orphaned(facts)
    missing = frozenset(facts.rendezvous.missing)
    why = {node.uid: StuckReason.MISSING for node in _running(facts) if node.address in missing}
    if given_up_at is None or given_up_at > facts.now:
        return Stuck(why, (given_up_at,) if given_up_at is not None else ())
    return Stuck(dict.fromkeys(uids, StuckReason.ORPHANED) | why)


def stuck_losses(
    facts: Facts, why: Mapping[str, StuckReason], known: Iterable[Loss], node_pods: int
) -> tuple[Loss, ...]:
    """Return the stuck nodes that are not counted as lost yet; ``known`` are the losses found otherwise."""
    counted = {node.uid for node in facts.job.status.nodes if node.phase == Phase.TERMINATING}
    lost = {loss.pod for loss in known}
    counted |= {node.uid for node in facts.nodes if node.name in lost}
    return tuple(
        Loss(node.index, node.name, Cause.INFRASTRUCTURE, why[node.uid].value)
        for node in facts.nodes
        if node.uid in why and node.index < node_pods and node.uid not in counted
    )


def _orphaned(facts: Facts) -> tuple[datetime | None, frozenset[str]]:
    """Return the uids of the nodes that know an earlier store than the present one, and when they are given up.

    A Kubernetes node that loses power and is back before anybody notices closes no connection. The agents of other
    nodes then wait a minute for an answer, and hang when they try to tell the store that they leave.
    """
    rendezvous, recorded = facts.rendezvous, facts.job.status.rendezvous
    if rendezvous is None or rendezvous.complete or rendezvous.round > 0:
        return None, frozenset()
    if recorded.instance != rendezvous.instance or recorded.since is None:
        return None, frozenset()
    joined = {member.address for member in rendezvous.members} | set(rendezvous.waiting)
    # The first round of this store is still open: nodes that trained or waited as spares did so with an earlier store.
    trained = {known.uid for known in facts.job.status.nodes if known.rank is not None or known.spare}
    uids = frozenset(n.uid for n in _running(facts) if n.uid in trained and n.address not in joined)
    return (recorded.since + _ORPHANED_AFTER if uids else None), uids


def _running(facts: Facts) -> list[NodePod]:
    return [node for node in facts.nodes if node.phase is Phase.RUNNING]
