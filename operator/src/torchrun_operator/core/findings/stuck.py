"""Stuck nodes: they run, but cannot join the round that forms or has formed without them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from torchrun_operator.core.facts.model import Facts, NodePod, Phase


class StuckReason(StrEnum):
    """Why a running node cannot join the next round. The value is the message for people."""

    MISSING = "did not join the next round: its agent or its Kubernetes node hangs"
    ORPHANED = "waits for a rendezvous store that is gone"


_ORPHANED_AFTER = timedelta(seconds=5)
"""If the connections close together with the store, agents end within a second or two."""
_OUTLIVING_AFTER = timedelta(seconds=60)
"""Agents that outlive their store come to the next one as soon as the network leads there."""


@dataclass(frozen=True)
class Stuck:
    """The running nodes that cannot join the next round."""

    why: Mapping[str, StuckReason]
    """By uid."""
    later: tuple[datetime, ...] = ()
    """When the operator gives up on nodes that may still join."""


def stuck(facts: Facts) -> Stuck:
    """Return the nodes that are stuck.

    torchrun gives workers 30 s to stop before it kills them. If a node has not joined after a minute, its agent or its
    Kubernetes node hangs.
    """
    if facts.rendezvous is None or facts.job.spec.static:
        return Stuck({})
    given_up_at, uids = _orphaned(facts)
    missing = frozenset(facts.rendezvous.missing)
    why = {node.uid: StuckReason.MISSING for node in _running(facts) if node.address in missing}
    if given_up_at is None or given_up_at > facts.now:
        return Stuck(why, (given_up_at,) if given_up_at is not None else ())
    return Stuck(dict.fromkeys(uids, StuckReason.ORPHANED) | why)


def _orphaned(facts: Facts) -> tuple[datetime | None, frozenset[str]]:
    """Return the uids of the nodes that use an earlier store than the current one, and when to give up on them.

    A Kubernetes node that loses power closes no connection. If it is back quickly, the agents of other nodes wait a
    minute for an answer, and hang when they try to write to the store that they leave.
    """
    rendezvous, recorded = facts.rendezvous, facts.job.status.rendezvous
    if rendezvous is None or rendezvous.complete or rendezvous.completed_at is not None or rendezvous.round > 0:
        return None, frozenset()
    if recorded.instance != rendezvous.instance or recorded.since is None:
        return None, frozenset()
    joined = {member.address for member in rendezvous.members} | set(rendezvous.waiting)
    # The first round of this store is still open: nodes that trained or waited as spares did so with an earlier store.
    trained = {known.uid for known in facts.job.status.nodes if known.rank is not None or known.spare}
    uids = frozenset(n.uid for n in _running(facts) if n.uid in trained and n.address not in joined)
    patience = _OUTLIVING_AFTER if facts.job.spec.outlives_host else _ORPHANED_AFTER
    return (recorded.since + patience if uids else None), uids


def _running(facts: Facts) -> list[NodePod]:
    return [node for node in facts.nodes if node.phase is Phase.RUNNING]
