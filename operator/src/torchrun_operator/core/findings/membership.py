"""Who is in the round, who must leave it, and who is a spare."""

from collections.abc import Mapping
from dataclasses import dataclass

from torchrun_operator.api.v1alpha1 import TorchrunJob
from torchrun_operator.core.facts.model import Facts, NodePod, Phase
from torchrun_operator.core.findings.wanted import Wanted

_FORMER_LEAVERS = 100
"""How many addresses without pods are kept out at least. With more addresses than this and than nodes, the list is
cleared, so that it does not grow without limit.
"""


@dataclass(frozen=True)
class Members:
    """Who is in the round, who must leave it, and who waits as a spare."""

    training: tuple[NodePod, ...]
    """The nodes that train now."""
    ranks: Mapping[str, int]
    """The group rank of each member of the complete round, by address."""
    full: bool
    """A complete round has all wanted nodes: the nodes outside it are spares."""
    idle: tuple[NodePod, ...]
    """The recorded spares that have not become members since."""
    surplus: frozenset[str]
    """Live nodes beyond those that should exist, by uid."""
    leavers: tuple[str, ...]
    """Addresses that must not be members of a round."""
    resized: bool
    """The number of wanted nodes has changed."""


def members(facts: Facts, wanted: Wanted) -> Members:
    """Return who is, should be, and must not be in the round."""
    return Members(
        training=training(facts, wanted.pods),
        ranks=ranks(facts),
        full=is_full(facts, wanted.nodes),
        idle=idle(facts),
        surplus=frozenset(node.uid for node in facts.nodes if node.live and node.index >= wanted.pods),
        leavers=leavers(facts, wanted.nodes, wanted.spares),
        resized=resized(facts.job, wanted.nodes),
    )


def leavers(facts: Facts, wanted: int, spares: int = 0) -> tuple[str, ...]:
    """Return the addresses that must not be members: those of failed, lost, terminating, surplus and former pods.

    In a job with spares, the rendezvous host chooses the members. Surplus members must leave the round. They return as
    spares once they are no longer in this list.

    An address without a pod may belong to a new pod that the API server has not reported yet. While a pod that may run
    has no address, new unknown addresses are not in the list. An address that was kept out before stays out: the agent
    of a Kubernetes node that was cut off may return long after its pod was replaced. A new pod with such an address
    joins as soon as the API server reports it.
    """
    staying = {node.address for node in facts.nodes if _stays(node, wanted + spares) and node.address}
    going = {node.address for node in facts.nodes if not _stays(node, wanted + spares) and node.address}
    going |= {node.address for node in facts.former if node.address}
    nameless = any(node.live and not node.address and not _unplaced(node) for node in facts.nodes)
    rendezvous = facts.rendezvous
    if rendezvous is not None:
        kept_out = rendezvous.target.leavers if rendezvous.target is not None else ()
        former = set(kept_out) - staying - going
        if len(former) <= max(_FORMER_LEAVERS, wanted + spares):
            going |= former
        if not nameless:
            going |= {member.address for member in rendezvous.members} | {*rendezvous.waiting, *rendezvous.missing}
    return tuple(sorted((going - staying) | _too_many(facts, staying, wanted)))


def _unplaced(node: NodePod) -> bool:
    """Whether the scheduler reports that the pod fits nowhere. Otherwise the pod may already be scheduled."""
    return not node.scheduled and bool(node.wait.reason)


def _too_many(facts: Facts, staying: set[str], wanted: int) -> set[str]:
    """Return the members with the highest ranks, as far as there are more than wanted."""
    rendezvous = facts.rendezvous
    if rendezvous is None or not rendezvous.complete:
        return set()
    members = sorted((member.rank, member.address) for member in rendezvous.members if member.address in staying)
    return {address for _, address in members[wanted:]}


def _stays(node: NodePod, node_pods: int) -> bool:
    # A node that has succeeded leaves by itself. To evict it would restart those that are about to succeed.
    return node.phase is Phase.SUCCEEDED or (node.live and node.index < node_pods)


def training(facts: Facts, node_pods: int) -> tuple[NodePod, ...]:
    """Return the running nodes that are members of a complete round: the ones that train."""
    rendezvous = facts.rendezvous
    if rendezvous is None or not rendezvous.complete:
        return ()
    members = {member.address for member in rendezvous.members}
    running = (node for node in facts.nodes if node.phase is Phase.RUNNING and node.index < node_pods)
    return tuple(node for node in running if node.address in members)


def is_full(facts: Facts, wanted: int) -> bool:
    """Whether a complete round has all wanted nodes, so that the others are spares.

    No round is full of the nodes of a suspended job, which wants none.
    """
    rendezvous = facts.rendezvous
    return rendezvous is not None and rendezvous.complete and 0 < wanted <= len(rendezvous.members)


def ranks(facts: Facts) -> dict[str, int]:
    """Return the group rank of each member of the complete round, by address; empty where no round is complete."""
    rendezvous = facts.rendezvous
    return {} if rendezvous is None or not rendezvous.complete else dict(rendezvous.members)


def resized(job: TorchrunJob, wanted: int) -> bool:
    """Whether a job that has trained now wants another number of nodes than its status."""
    trained = any(node.rank is not None for node in job.status.nodes)
    return trained and job.status.membership.desired_nodes not in (0, wanted)


def idle(facts: Facts) -> tuple[NodePod, ...]:
    """Return the nodes that the status records as spares and that have not become members since."""
    recorded = {node.uid for node in facts.job.status.nodes if node.spare}
    members = {member.address for member in facts.rendezvous.members} if facts.rendezvous is not None else set()
    return tuple(node for node in facts.nodes if node.uid in recorded and node.address not in members)
