"""The size of the next round, and the nodes that it does not wait for."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from torchrun_operator.api.names import node_name
from torchrun_operator.core.facts.model import Facts, NodePod, Phase
from torchrun_operator.core.findings.backoff import BackOffs, absence_of
from torchrun_operator.core.findings.causes import describe
from torchrun_operator.core.findings.leftovers import Leftovers
from torchrun_operator.core.findings.remedies import cause
from torchrun_operator.core.findings.wanted import Wanted

FATAL_WAITS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
     "SignatureValidationFailed", "CreateContainerConfigError", "CreateContainerError", "RunContainerError",
     "CrashLoopBackOff"}
)  # fmt: skip
"""Reasons of a waiting container that rarely pass without a person."""
_PATIENCE = {Phase.PENDING: timedelta(seconds=3), Phase.STARTING: timedelta(seconds=15)}
"""A pod that fits is scheduled sooner. A pod whose image is on its Kubernetes node runs sooner."""


@dataclass(frozen=True)
class Size:
    """The size of the next round, and why it is not larger."""

    round: int
    """Nodes of the next round."""
    absent: Mapping[int, str]
    """The nodes that the round does not wait for, by index, and why."""
    later: tuple[datetime, ...]
    """Times at which the size changes without an event."""


def size(facts: Facts, wanted: Wanted, backed_off: BackOffs, left: Leftovers) -> Size:
    """Return the size of the next round."""
    pods = {node.index: node for node in facts.nodes}
    held = {
        index: absence_of(backed_off.nodes[index], describe(pods[index].exit) if index in pods else "")
        for index in backed_off.held
    }
    absent = {**absences(facts), **left.late, **refused(facts, wanted.pods), **held}
    return Size(round_size(wanted, absent), absent, tuple(patience_ends(facts, wanted.pods)))


def round_size(wanted: Wanted, late: Collection[int]) -> int:
    """Return the number of nodes of the next round.

    These are the wanted nodes, less the late ones (indices) that no spare replaces. The round waits for a node that
    starts: the others restart their workers meanwhile, which takes as long. A node that is refused, is not
    scheduled, cannot pull its image, is silent, or is not replaced yet after a failure is late. It joins a later round.
    """
    there = wanted.pods - sum(1 for index in set(late) if index < wanted.pods)
    return max(wanted.minimum, min(wanted.nodes, there))


def absence(facts: Facts, node: NodePod) -> str:
    """Return why the round does not wait for the node, for people. Empty: it waits, or the node is there."""
    rendezvous = facts.rendezvous
    if node.wait.reason in FATAL_WAITS:
        return f"{node.wait.reason}: {cause(node.wait)}"
    if rendezvous is not None and node.address in (rendezvous.silent or ()):
        return "is silent"
    ends = _patience_ends(facts, node)
    if ends is None or facts.now < ends:
        return ""
    if node.phase is Phase.PENDING:
        return cause(node.wait) or "is not scheduled yet"
    return f"{node.wait.reason}: {cause(node.wait)}" if cause(node.wait) else f"is starting on {node.machine}"


def absences(facts: Facts) -> dict[int, str]:
    """Return the nodes that the round does not wait for, by index, and why."""
    return {node.index: why for node in facts.nodes if (why := absence(facts, node))}


def refused(facts: Facts, node_pods: int) -> dict[int, str]:
    """Return the nodes whose pods the API server refuses to create, by index, and why. They join once it accepts."""
    if not facts.refusal or facts.name_taken:
        return {}
    name, there = facts.job.metadata.name, {node.index for node in facts.nodes}
    return {
        index: facts.refusal
        for index in range(node_pods)
        if index not in there and (facts.refused is None or node_name(name, index) in facts.refused)
    }


def _patience_ends(facts: Facts, node: NodePod) -> datetime | None:
    """Return until when the round waits for a starting node. The first round waits for all scheduled nodes."""
    patience = _PATIENCE.get(node.phase)
    trained = facts.rendezvous is not None and facts.rendezvous.completed_at is not None
    if patience is None or node.created_at is None or (node.phase is Phase.STARTING and not trained):
        return None
    return node.created_at + patience


def patience_ends(facts: Facts, node_pods: int) -> list[datetime]:
    """Return the times after which the round no longer waits for nodes that do not run yet."""
    ends = [_patience_ends(facts, node) for node in facts.nodes if node.index < node_pods]
    return [end for end in ends if end is not None and end > facts.now]
