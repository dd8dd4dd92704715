"""The end of a job: it succeeds when every member succeeds, and members that have finished end all scaling.

A member is a node that the status records with a rank: it was in the newest complete round.
"""

from dataclasses import dataclass

from torchrun_operator.core.facts.model import GONE, Facts, NodePod, Phase


@dataclass(frozen=True)
class Completion:
    """How close the job is to its end."""

    finishing: bool = False
    """A member has succeeded, or its agent reports so in the rendezvous."""
    complete: bool = False
    """Every member has succeeded."""
    broken: bool = False
    """A member was lost after others had succeeded: no node can train with its replacement."""
    rendezvous_spent: bool = False
    """The rendezvous is closed or about to be, and the nodes that closed it are gone: a start needs a new one."""


def completion(facts: Facts, wanted: int) -> Completion:
    """Return how close the job is to its end; ``wanted`` nodes train together."""
    closed = facts.rendezvous is not None and facts.rendezvous.closed
    ending = closed or (facts.rendezvous is not None and facts.rendezvous.finished > 0)
    succeeded = any(node.phase is Phase.SUCCEEDED for node in facts.nodes)
    members = _members(facts, wanted)
    present = [pod for pod in members if pod is not None and pod.phase not in GONE]
    if not (succeeded or (ending and present)):
        return Completion(rendezvous_spent=ending)
    return Completion(
        finishing=True,
        complete=bool(members) and all(pod is not None and pod.phase is Phase.SUCCEEDED for pod in members),
        broken=any(pod is None or pod.phase in GONE for pod in members),
    )


def _members(facts: Facts, wanted: int) -> list[NodePod | None]:
    """Return the pod of each member; None: it is gone. Without recorded ranks every started node is a member."""
    pods = {node.uid: node for node in facts.nodes}
    recorded = [node for node in facts.job.status.nodes if node.rank is not None]
    if recorded:
        return [pods.get(node.uid) for node in recorded]
    started = [node for node in facts.nodes if node.phase not in (Phase.PENDING, Phase.STARTING)]
    succeeded = [node for node in started if node.phase is Phase.SUCCEEDED]
    enough = facts.job.spec.elasticity.spares and len(succeeded) >= wanted
    return [*succeeded] if enough else [*started]
