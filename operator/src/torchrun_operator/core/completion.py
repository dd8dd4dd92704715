"""The end of a job: success is every member's success, and finished members end scaling.

A member is a node that the status has recorded with a rank: it was in the newest complete round.
"""

from dataclasses import dataclass

from torchrun_operator.api.v1alpha1 import TorchrunJob
from torchrun_operator.core.observed import NodePod, Observed, Phase

_LOST = frozenset({Phase.TERMINATING, Phase.FAILED, Phase.LOST})


@dataclass(frozen=True)
class Completion:
    """How far the job is past its training."""

    finishing: bool = False
    """Some member has succeeded, or its agent says so in the rendezvous."""
    complete: bool = False
    """Every member has succeeded."""
    broken: bool = False
    """Some member was lost after others had succeeded: nobody is left to train with it."""
    rendezvous_spent: bool = False
    """The rendezvous is closed, or about to be, and nobody who did that is left: the next start needs a new one."""


def completion(job: TorchrunJob, observed: Observed) -> Completion:
    """Return how far the job is past its training."""
    closed = observed.rendezvous is not None and observed.rendezvous.closed
    ending = closed or (observed.rendezvous is not None and observed.rendezvous.finished > 0)
    succeeded = any(node.phase is Phase.SUCCEEDED for node in observed.nodes)
    members = _members(job, observed)
    present = [pod for pod in members if pod is not None and pod.phase not in _LOST]
    if not (succeeded or (ending and present)):
        return Completion(rendezvous_spent=ending)
    return Completion(
        finishing=True,
        complete=bool(members) and all(pod is not None and pod.phase is Phase.SUCCEEDED for pod in members),
        broken=any(pod is None or pod.phase in _LOST for pod in members),
    )


def _members(job: TorchrunJob, observed: Observed) -> list[NodePod | None]:
    """Return each member's pod; None where it is gone. A job that ended before any status told its ranks has all."""
    pods = {node.uid: node for node in observed.nodes}
    recorded = [node for node in job.status.nodes if node.rank is not None]
    if recorded:
        return [pods.get(node.uid) for node in recorded]
    started = [node for node in observed.nodes if node.phase not in (Phase.PENDING, Phase.STARTING)]
    succeeded = [node for node in started if node.phase is Phase.SUCCEEDED]
    enough = job.spec.elasticity.spares and len(succeeded) >= job.spec.wanted_nodes
    return [*succeeded] if enough else [*started]


def spares(job: TorchrunJob, observed: Observed) -> tuple[NodePod, ...]:
    """Return the nodes that the status knows as spares and that have not taken part since."""
    recorded = {node.uid for node in job.status.nodes if node.spare}
    rendezvous = observed.rendezvous
    members = {address for address, _ in rendezvous.members} if rendezvous is not None else set()
    return tuple(n for n in observed.nodes if n.uid in recorded and n.address not in members)
