"""The size of the next round, and the nodes that it does not wait for."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from torchrun_operator.core.facts.model import Facts, NodePod, Phase
from torchrun_operator.core.findings.counts import Counts
from torchrun_operator.core.findings.wanted import Wanted

FATAL_WAITS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
     "SignatureValidationFailed", "CreateContainerConfigError", "CreateContainerError", "RunContainerError",
     "CrashLoopBackOff"}
)  # fmt: skip
"""Reasons of a waiting container that rarely pass without a person."""
_PATIENCE = {Phase.PENDING: timedelta(seconds=3), Phase.STARTING: timedelta(seconds=15)}
"""A pod that fits is scheduled sooner. A pod whose image is on its Kubernetes node runs sooner."""
_SHORT_LIFE = timedelta(seconds=5)


@dataclass(frozen=True)
class Size:
    """The size of the next round, and why it is not larger."""

    round: int
    """Nodes of the next round."""
    absent: Mapping[int, str]
    """The nodes that the round does not wait for, by index, and why."""
    held: Mapping[int, datetime]
    """Failed nodes that are replaced later, by index, and when."""
    later: tuple[datetime, ...]
    """Times at which the size changes without an event."""


def size(facts: Facts, wanted: Wanted, counts: Counts, *, replaces: bool) -> Size:
    """Return the size of the next round. Only an active job delays the replacement of failed nodes."""
    absent = absences(facts)
    held_back = held(facts.nodes, counts.restarts.code, counts.by_code, facts.now) if replaces else {}
    later = (*held_back.values(), *patience_ends(facts, wanted.pods))
    return Size(round_size(wanted, {*absent, *held_back}), absent, held_back, later)


def round_size(wanted: Wanted, late: Collection[int]) -> int:
    """Return the number of nodes of the next round.

    These are the wanted nodes, less the late ones (indices) that no spare replaces. The round waits for a node that
    starts: the others restart their workers meanwhile, which takes as long. A node that is not scheduled, cannot pull
    its image, is silent, or is not replaced yet after a failure is late. It joins a later round.
    """
    there = wanted.pods - sum(1 for index in set(late) if index < wanted.pods)
    return max(wanted.minimum, min(wanted.nodes, there))


def absence(facts: Facts, node: NodePod) -> str:
    """Return why the round does not wait for the node, for people. Empty: it waits, or the node is there."""
    rendezvous = facts.rendezvous
    if node.wait.reason in FATAL_WAITS:
        return f"{node.wait.reason}: {node.wait.message}"
    if rendezvous is not None and node.address in (rendezvous.silent or ()):
        return "is silent"
    ends = _patience_ends(facts, node)
    if ends is None or facts.now < ends:
        return ""
    if node.phase is Phase.PENDING:
        return node.wait.message or "is not scheduled yet"
    return f"is starting on {node.machine}"


def absences(facts: Facts) -> dict[int, str]:
    """Return the nodes that the round does not wait for, by index, and why."""
    return {node.index: why for node in facts.nodes if (why := absence(facts, node))}


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


def held(nodes: Iterable[NodePod], code_restarts: int, by_code: Collection[str], now: datetime) -> dict[int, datetime]:
    """Return the failed nodes that are replaced later, by index, and when.

    ``by_code``: for each failed pod (uid), whether the code made it fail.
    """
    times = {
        node.index: replace_at(node, code_restarts, failed_by_code=node.uid in by_code)
        for node in nodes
        if node.phase is Phase.FAILED
    }
    return {index: time for index, time in times.items() if time is not None and time > now}


def replace_at(node: NodePod, code_restarts: int, *, failed_by_code: bool) -> datetime | None:
    """Return when to replace a failed node. None: now.

    A node whose code fails repeatedly waits 1, 2, 4… and at most 60 s. A node that fails at once is replaced at the
    earliest 5 s after its creation, so that a pod that cannot run does not flood the cluster.
    """
    ended = node.exit.finished_at if node.exit is not None else None
    candidates = []
    if failed_by_code and ended is not None and code_restarts > 1:
        candidates.append(ended + timedelta(seconds=min(60, 2 ** (code_restarts - 2))))
    if node.created_at is not None:
        candidates.append(node.created_at + _SHORT_LIFE)
    return max(candidates, default=None)
