"""Nodes that start and end together: those of a static job. Pods of different rounds never train together.

All pods of a round carry the uid of the lead's pod. The status records the pods that must end, so that a restarted
operator ends them too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torchrun_operator.api.lead import LeadPod
from torchrun_operator.core.facts.model import LIVE, Facts, NodePod, Phase
from torchrun_operator.core.facts.together import lead_of, own_nodes
from torchrun_operator.core.findings.leftovers import Leftovers
from torchrun_operator.core.findings.losses import Losses


@dataclass(frozen=True)
class Together:
    """The round of a static job. Empty for other jobs."""

    lead: LeadPod | None = None
    """The lead, if the other nodes can start with it."""
    ends: str = ""
    """Why all nodes of the round end now, for people. Empty: they do not."""
    gently: bool = False
    """They have their own grace periods: the node that leaves has one too."""
    stale: frozenset[str] = field(default_factory=frozenset)
    """The uids of pods of earlier rounds."""


def together(facts: Facts, lost: Losses, left: Leftovers) -> Together:
    """Return the round of a static job, and whether its nodes must end."""
    if not facts.job.spec.static:
        return Together()
    lead = lead_of(facts) if 0 not in left.given_up else None
    own = own_nodes(facts, lead)
    uids = {node.uid for node in own}
    stale = frozenset(node.uid for node in facts.nodes if node.uid not in uids)
    if lost.undecided:
        return Together()
    ends = _why(facts, own, lost)
    ready = lead is not None and lead.address and not ends
    return Together(lead if ready else None, ends, _leaves(facts, lost), stale)


def _why(facts: Facts, own: Sequence[NodePod], lost: Losses) -> str:
    """Return why the nodes must end: a loss that counts now, or one that an earlier pass has counted."""
    if lost.nodes:
        return f"pod {lost.nodes[0].pod} {lost.nodes[0].what}"
    recorded = {node.uid: node.phase for node in facts.job.status.nodes}
    if not any(_is_over(node, recorded.get(node.uid)) for node in own):
        return ""
    last = facts.job.status.last_failure
    return f"pod {last.pod} failed: {last.message}" if last is not None and last.pod else "a node was lost"


def _is_over(node: NodePod, recorded: str | None) -> bool:
    """Whether the pod has ended badly, or is one of those that an earlier pass has decided to end."""
    ended = node.phase not in LIVE and node.phase is not Phase.SUCCEEDED
    return ended or recorded in (Phase.TERMINATING, Phase.LOST, Phase.FAILED)


def _leaves(facts: Facts, lost: Losses) -> bool:
    """Whether the loss is a pod that is being deleted and still runs: it has a grace period."""
    names = {loss.pod for loss in lost.nodes}
    leaving = (node for node in facts.nodes if node.name in names and node.phase is Phase.TERMINATING)
    return any(node.exit is None and node.grace_seconds > 1 for node in leaving)
