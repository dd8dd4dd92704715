"""Which nodes should be in the rendezvous, and what the round says of the job."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from torchrun_operator.api.v1alpha1 import TorchrunJob
from torchrun_operator.core.observed import NodePod, Observed, Phase, RendezvousPod

FATAL_WAITS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
     "SignatureValidationFailed", "CreateContainerConfigError", "CreateContainerError", "RunContainerError",
     "CrashLoopBackOff"}
)  # fmt: skip
"""What a container waits for that seldom passes without a person."""
_PATIENCE = {Phase.PENDING: timedelta(seconds=3), Phase.STARTING: timedelta(seconds=15)}
"""A pod that finds a machine at all finds it sooner; one that has its image there runs sooner."""


_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_AGENT_START = timedelta(seconds=3)
"""An agent imports torch before it looks for the rendezvous."""
_FORMER_LEAVERS = 100
"""How many addresses without pods are kept out at least; with more than that, and than there are nodes, it begins anew,
lest the list grow as long as the job lives."""


@dataclass(frozen=True)
class Target:
    """What the rendezvous host is asked for; it evicts leavers and completes a round at `size`, or at `minimum` once
    that many have waited last_call_seconds for more.
    """

    generation: int
    size: int
    minimum: int
    last_call_seconds: float
    leavers: tuple[str, ...]
    close: bool = False
    """End the rendezvous for good: agents exit as soon as they look for the next round."""
    end_round: tuple[str, int] | None = None
    """A round that has to end, and the host process (instance) that counts it."""
    progress_deadline_seconds: float | None = None
    """How long a round may take from one reported step to the next; None: any time."""
    start_deadline_seconds: float | None = None
    """How long it may take to report two steps."""


def leavers(observed: Observed, wanted: int, spares: int = 0) -> tuple[str, ...]:
    """Return the addresses that must not be members: of dead, terminating and surplus pods, and of pods long gone.

    In a job with spares the rendezvous host chooses who trains; members beyond the wanted number have to leave the
    round, and come back as spares once they are no longer named here. An address that belongs to no pod may be a new
    pod's that Kubernetes has not told of yet: as long as a pod that can be running has no address, new strangers are
    left alone. Who was kept out before still is: an agent whose machine was cut off comes back long after its pod was
    replaced. If a new pod has got its address, it joins as soon as Kubernetes says so.
    """
    staying = {node.address for node in observed.nodes if _stays(node, wanted + spares) and node.address}
    going = {node.address for node in observed.nodes if not _stays(node, wanted + spares) and node.address}
    nameless = any(node.live and not node.address and not _unplaced(node) for node in observed.nodes)
    rendezvous = observed.rendezvous
    if rendezvous is not None:
        former = set(rendezvous.leavers) - staying - going
        if len(former) <= max(_FORMER_LEAVERS, wanted + spares):
            going |= former
        if not nameless:
            going |= {address for address, _ in rendezvous.members} | {*rendezvous.waiting, *rendezvous.missing}
    return tuple(sorted((going - staying) | _too_many(observed, staying, wanted)))


def _unplaced(node: NodePod) -> bool:
    """Whether the scheduler has said that it finds no machine. A pod that nobody has said anything of may be further
    than is known.
    """
    return not node.scheduled and bool(node.waiting_reason)


def _too_many(observed: Observed, staying: set[str], wanted: int) -> set[str]:
    """The members with the highest ranks, as long as there are more than wanted."""
    rendezvous = observed.rendezvous
    if rendezvous is None or not rendezvous.complete:
        return set()
    members = sorted((rank, address) for address, rank in rendezvous.members if address in staying)
    return {address for _, address in members[wanted:]}


def size(
    observed: Observed, wanted: int, minimum: int, now: datetime, held: frozenset[int] = frozenset(), spares: int = 0
) -> int:
    """Return how many nodes the next round should have: the wanted ones, less those that are not on their way and for
    which no spare stands in.

    A node that starts is worth waiting for: the others restart their workers meanwhile, which takes as long. One that
    finds no machine, cannot pull its image, gives no sign of life or is held back after a failure is not; it joins a
    later round.
    """
    late = {node.index for node in observed.nodes if absence(observed, node, now)} | held
    there = wanted + spares - sum(1 for index in late if index < wanted + spares)
    return max(minimum, min(wanted, there))


def absence(observed: Observed, node: NodePod, now: datetime) -> str:
    """Return for what reason nobody waits for the node, in words for people; empty: it is there or on its way."""
    rendezvous = observed.rendezvous
    if node.waiting_reason in FATAL_WAITS:
        return f"{node.waiting_reason}: {node.waiting_message}"
    if rendezvous is not None and node.address in (rendezvous.silent or ()):
        return "gives no sign of life"
    ends = _patience_ends(observed, node)
    if ends is None or now < ends:
        return ""
    if node.phase is Phase.PENDING:
        return node.waiting_message or "waits for a machine"
    return f"is starting on {node.machine}"


def _patience_ends(observed: Observed, node: NodePod) -> datetime | None:
    """Return until when to wait for a node that does not run yet. A first round waits for all that have a machine."""
    patience = _PATIENCE.get(node.phase)
    trained = observed.rendezvous is not None and observed.rendezvous.completed_at is not None
    if patience is None or node.created_at is None or (node.phase is Phase.STARTING and not trained):
        return None
    return node.created_at + patience


def patience_ends(observed: Observed, node_pods: int, now: datetime) -> list[datetime]:
    """Return when to look again at nodes that do not run yet: from then on nobody waits for them."""
    ends = [_patience_ends(observed, node) for node in observed.nodes if node.index < node_pods]
    return [end for end in ends if end is not None and end > now]


def _stays(node: NodePod, node_pods: int) -> bool:
    # A node that has succeeded has left by itself; evicting it would restart those that are about to succeed.
    return node.phase is Phase.SUCCEEDED or (node.live and node.index < node_pods)


def services_due(observed: Observed) -> datetime | None:
    """Return from when on the job's services should exist; None: there is no pod yet that could look for them.

    Kubernetes writes a service's endpoints anew whenever one of its pods gets an address. With the service made when
    all have one, that is once. One that is slow to start (a large image) holds it up for seconds only.
    """
    pods: list[NodePod | RendezvousPod] = [*observed.nodes]
    if observed.rendezvous_pod is not None:
        pods.append(observed.rendezvous_pod)
    if pods and all(pod.address for pod in pods):
        return _LONG_AGO
    return min((pod.started_at + _AGENT_START for pod in pods if pod.started_at is not None), default=None)


def training(observed: Observed, node_pods: int) -> tuple[NodePod, ...]:
    """Return the live nodes that are members of a complete round: those that train."""
    rendezvous = observed.rendezvous
    if rendezvous is None or not rendezvous.complete:
        return ()
    members = {address for address, _ in rendezvous.members}
    running = (node for node in observed.nodes if node.phase is Phase.RUNNING and node.index < node_pods)
    return tuple(node for node in running if node.address in members)


def is_full(observed: Observed, wanted: int) -> bool:
    """Tell whether a complete round has all the nodes that are wanted: then those not in it are spares."""
    rendezvous = observed.rendezvous
    return rendezvous is not None and rendezvous.complete and len(rendezvous.members) >= wanted


def rank_of(observed: Observed, node: NodePod) -> int | None:
    """Return the node's group rank in the complete round, if it is in it."""
    rendezvous = observed.rendezvous
    if rendezvous is None or not rendezvous.complete or node.address is None:
        return None
    return dict(rendezvous.members).get(node.address)


def resized(job: TorchrunJob) -> bool:
    """Tell whether a job that has trained is asked for another number of nodes than its status was written for."""
    trained = any(node.rank is not None for node in job.status.nodes)
    return trained and job.status.membership.desired_nodes not in (0, job.spec.wanted_nodes)


_SHORT_LIFE = timedelta(seconds=5)


def replace_at(node: NodePod, code_restarts: int, *, failed_by_code: bool) -> datetime | None:
    """Return when a failed node may be replaced; None: now.

    A node that keeps failing because of the code waits 1, 2, 4… at most 60 s, and one that dies as soon as it starts
    waits until 5 s after that start, so that no cluster is flooded by a pod that cannot live.
    """
    ended = node.exit.finished_at if node.exit is not None else None
    candidates = []
    if failed_by_code and ended is not None and code_restarts > 1:
        candidates.append(ended + timedelta(seconds=min(60, 2 ** (code_restarts - 2))))
    if node.created_at is not None:
        candidates.append(node.created_at + _SHORT_LIFE)
    return max(candidates, default=None)
