"""Losses: nodes that were live in the last status and no longer are.

The status that counts a loss also records the node as lost, so a loss counts once, even if the operator restarts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from torchrun_operator.api.v1alpha1 import Failure, NodeStatus, RendezvousStatus
from torchrun_operator.core.facts.logs import failing_since, settled
from torchrun_operator.core.facts.model import LIVE, Cause, Exit, Facts, NodePod, Phase
from torchrun_operator.core.facts.together import lead_of, own_nodes
from torchrun_operator.core.findings.causes import cause_of_disruption, cause_of_failure, describe
from torchrun_operator.core.findings.membership import Members
from torchrun_operator.core.findings.stuck import Stuck
from torchrun_operator.core.findings.wanted import Wanted
from torchrun_rendezvous.protocol import RendezvousState

SAME_CAUSE = timedelta(seconds=10)
"""Workers that fail this close to the loss of a node failed because of it."""


@dataclass(frozen=True)
class Loss:
    """A node that was live and no longer is."""

    index: int
    pod: str
    cause: Cause
    what: str
    """What happened to it, for people."""
    exit: Exit | None = None
    rank: int | None = None
    """Its group rank, if it was a member."""
    machine: str | None = None
    created_at: datetime | None = None
    start_counted: bool = False
    """A failure of the code has been counted since its start, and it has not trained."""
    spare: bool = False
    """It was not a member, so no worker restarts and nothing counts."""


@dataclass(frozen=True)
class Losses:
    """The losses that no status has counted yet."""

    nodes: tuple[Loss, ...] = ()
    spares: tuple[Loss, ...] = ()
    """Losses of spares, which count nothing."""
    by_code: int = 0
    """How many failures of the code they are."""
    undecided: frozenset[str] = frozenset()
    """The uids of failed pods of a static job whose failure is not counted yet."""
    undecided_since: datetime | None = None
    """When the operator first saw them."""


def losses(facts: Facts, wanted: Wanted, members: Members, stuck: Stuck) -> Losses:
    """Return the losses that no status has counted yet, stuck nodes included."""
    status = facts.job.status
    found = new_losses(status.nodes, facts, wanted.pods, status.rendezvous, full=members.full)
    if facts.job.spec.static:
        return _first(facts, found)
    found += _stuck_losses(facts, stuck, found, wanted.pods)
    nodes = tuple(loss for loss in found if not loss.spare)
    spares = tuple(loss for loss in found if loss.spare)
    return Losses(nodes, spares, code_failures(nodes, status.last_failure))


def _first(facts: Facts, found: Sequence[Loss]) -> Losses:
    """Return the loss that ended the round of a static job: all nodes end with it, so it counts once.

    When a node is lost, the others fail within a second, often before the API server reports the lost one. So failures
    of the code wait for other reports while some nodes still run.
    """
    if not found:
        return Losses()
    outside = [loss for loss in found if loss.cause is not Cause.CODE]
    runs = any(node.phase in LIVE for node in own_nodes(facts, lead_of(facts)))
    if not outside and runs and not settled(facts):
        names = {loss.pod for loss in found}
        uids = frozenset(node.uid for node in facts.nodes if node.name in names)
        return Losses(undecided=uids, undecided_since=failing_since(facts) or facts.now)
    first = min(outside or found, key=_ended_at)
    return Losses((first,), by_code=int(first.cause is Cause.CODE))


def _ended_at(loss: Loss) -> tuple[bool, float]:
    """Order losses by the end of the container. One that is being deleted has not ended yet."""
    ended = loss.exit.finished_at if loss.exit is not None else None
    return ended is None, ended.timestamp() if ended is not None else 0.0


def new_losses(
    recorded: Iterable[NodeStatus],
    facts: Facts,
    node_pods: int,
    rendezvous_status: RendezvousStatus,
    *,
    full: bool = False,
) -> tuple[Loss, ...]:
    """Return the losses that no status has counted yet. Surplus nodes (index >= node_pods) leave; they are not lost.

    A pod that failed before any status named it counts as well: as a spare if the round is ``full`` without it.
    """
    recorded = tuple(recorded)
    pods = {node.uid: node for node in facts.nodes}
    known = {node.uid for node in recorded}
    live = [node for node in recorded if node.phase in LIVE]
    unknown = [
        NodeStatus(index=node.index, pod=node.name, uid=node.uid, address=node.address, spare=full or None)
        for node in facts.nodes
        if node.phase is Phase.FAILED and node.uid not in known
    ]
    found = (
        (node, _loss(node, pods, facts, rendezvous_status)) for node in (*live, *unknown) if node.index < node_pods
    )
    return tuple(replace(loss, spare=_was_spare(node, facts.rendezvous)) for node, loss in found if loss is not None)


def _was_spare(node: NodeStatus, rendezvous: RendezvousState | None) -> bool:
    """Whether the node is no member. While a round forms, the node may join it, so it is not a spare."""
    if not node.spare:
        return False
    if rendezvous is None or rendezvous.closed:
        return True
    return rendezvous.complete and all(member.address != node.address for member in rendezvous.members)


def _loss(node: NodeStatus, pods: Mapping[str, NodePod], facts: Facts, recorded: RendezvousStatus) -> Loss | None:
    pod = pods.get(node.uid)

    def loss(cause: Cause, what: str) -> Loss:
        if pod is None:
            return Loss(node.index, node.pod, cause, what, rank=node.rank, machine=node.machine)
        ended, counted = pod.exit if pod.phase is Phase.FAILED else None, bool(node.start_counted)
        return Loss(node.index, node.pod, cause, what, ended, node.rank, pod.machine, pod.created_at, counted)

    if pod is None:
        return loss(Cause.INFRASTRUCTURE, "was deleted")
    if pod.phase is Phase.LOST:
        return loss(Cause.INFRASTRUCTURE, f"is lost: {pod.trouble}")
    if pod.phase is Phase.TERMINATING:
        cause = cause_of_disruption(pod)
        preempted = cause is Cause.PREEMPTION
        return loss(cause, f"is being evicted or preempted ({pod.disruption})" if preempted else "is being deleted")
    if pod.phase is Phase.FAILED:
        stored = not facts.job.spec.static
        cause = cause_of_failure(node, pod, facts.rendezvous, recorded, stored=stored)
        return loss(cause, describe(pod.exit, facts.said.get(pod.name)))
    without_host = host_trouble(facts)
    if pod.phase is Phase.RUNNING and without_host:
        return loss(Cause.INFRASTRUCTURE, f"lost the rendezvous host: {without_host}")
    return None


def host_trouble(facts: Facts) -> str:
    """Return why the rendezvous host is lost, if its nodes are lost with it; else empty text."""
    host = facts.rendezvous_pod
    if host is None or host.phase is not Phase.LOST or facts.job.spec.outlives_host:
        return ""
    return host.trouble


def _stuck_losses(facts: Facts, stuck: Stuck, known: Iterable[Loss], node_pods: int) -> tuple[Loss, ...]:
    """Return the stuck nodes that are not counted as lost yet. ``known`` are the other losses."""
    counted = {node.uid for node in facts.job.status.nodes if node.phase == Phase.TERMINATING}
    lost = {loss.pod for loss in known}
    counted |= {node.uid for node in facts.nodes if node.name in lost}
    return tuple(
        Loss(node.index, node.name, Cause.INFRASTRUCTURE, stuck.why[node.uid].value)
        for node in facts.nodes
        if node.uid in stuck.why and node.index < node_pods and node.uid not in counted
    )


def code_failures(losses: Iterable[Loss], last: Failure | None) -> int:
    """Return the failures of the code in these losses: at most one, even if several nodes failed.

    Zero if it is the failure that was counted last: one start fails once, however many nodes fail in it, and nodes that
    train fail together. A pod created after that one has failed again.
    """
    return int(any(loss.cause is Cause.CODE and not _same(loss, last) for loss in losses))


def _same(loss: Loss, last: Failure | None) -> bool:
    if loss.start_counted:
        return True
    ended = loss.exit.finished_at if loss.exit is not None else None
    of_code = last is not None and (last.cause == Cause.CODE or last.rule is not None)
    if last is None or not of_code or ended is None or loss.created_at is None:
        return False
    return loss.created_at <= last.time and abs(ended - last.time) <= SAME_CAUSE
