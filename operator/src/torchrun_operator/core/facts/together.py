"""The round of a static job: the pods that started with the same pod of the lead. Pure.

No rendezvous host reports it, so it is read from the pods. They show that the nodes run, not that they train together.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from torchrun_operator.api.lead import LeadPod
from torchrun_operator.core.facts.model import Facts, NodePod, Phase
from torchrun_rendezvous.protocol import Member, RendezvousState

_STARTED = frozenset({Phase.RUNNING, Phase.SUCCEEDED})


def with_static_round(facts: Facts) -> Facts:
    """Return the facts with the round of a static job as its rendezvous. Other jobs keep theirs."""
    return replace(facts, rendezvous=_round(facts)) if facts.job.spec.static else facts


def lead_of(facts: Facts) -> LeadPod | None:
    """Return the lead that the other nodes start with. None: it has no pod, and has not succeeded either."""
    pod = next((node for node in facts.nodes if node.index == 0), None)
    if pod is not None:
        return LeadPod(pod.uid, pod.address or "")
    recorded = next((node for node in facts.job.status.nodes if node.index == 0), None)
    if recorded is None or recorded.phase != Phase.SUCCEEDED:
        return None
    return LeadPod(recorded.uid, recorded.address or "")


def own_nodes(facts: Facts, lead: LeadPod | None) -> tuple[NodePod, ...]:
    """Return the pods of the round with that lead, by index."""
    nodes = (node for node in facts.nodes if node.index < facts.job.spec.max_nodes)
    return tuple(node for node in nodes if lead is not None and lead.uid in (node.lead, node.uid))


def _round(facts: Facts) -> RendezvousState | None:
    """Return the round. It is complete once all nodes run or have succeeded; the rank of a node is its index."""
    lead = lead_of(facts)
    if lead is None:
        return None
    there = [node for node in own_nodes(facts, lead) if node.phase in _STARTED]
    complete = len(there) == facts.job.spec.max_nodes
    return RendezvousState(
        lead.uid,
        complete=complete,
        members=tuple(Member(node.address or "", node.index) for node in there),
        completed_at=_newest(node.runs_since or node.started_at for node in there) if complete else None,
    )


def _newest(times: Iterable[datetime | None]) -> datetime | None:
    return max((time for time in times if time is not None), default=None)
