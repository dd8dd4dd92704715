"""Restarts by cause: which losses are new since the last status, and whose fault each was.

A loss is counted when a node that the status records as live is seen dead or gone; the same status that counts it
records the node as dead, so it is counted once, whatever crashes in between.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from torchrun_operator.api.v1alpha1 import NodeStatus, RendezvousStatus
from torchrun_operator.core.observed import Cause, Exit, NodePod, Observed, Phase, Rendezvous

_LIVE = frozenset({Phase.PENDING, Phase.STARTING, Phase.RUNNING})
_KILLED = frozenset({128 + 9, 128 + 15})
"""Exit codes of SIGKILL and SIGTERM: somebody or something outside ended the container."""
_MACHINE_REASONS = frozenset(
    {"NodeLost", "NodeShutdown", "Terminated", "Shutdown", "NodeAffinity", "UnexpectedAdmissionError"}
)
_STORE_BLIP = timedelta(seconds=30)
"""Agents end within a second or two of the store's death, but Kubernetes may tell of it later."""
_SAME_CAUSE = timedelta(seconds=10)
"""Workers that fail this close to a node's loss failed because of it."""
SETTLE = timedelta(seconds=3)
"""How long a failure of workers waits for news of a lost node that would explain it."""


@dataclass(frozen=True)
class Loss:
    """A node that was live and is not any more."""

    index: int
    pod: str
    cause: Cause
    what: str
    """For people: what happened to it."""
    exit: Exit | None = None


@dataclass(frozen=True)
class WorkerFailures:
    """Rounds that a member left by itself because its workers failed, since the status was written."""

    count: int
    """How many were the code's fault."""
    handled: int
    """Value of the host's counter that the status may record as dealt with."""
    undecided_until: datetime | None = None
    by: tuple[str, ...] = ()


def new_losses(
    recorded: Iterable[NodeStatus], observed: Observed, wanted: int, rendezvous_status: RendezvousStatus
) -> tuple[Loss, ...]:
    """Return the losses that no status has counted yet. Surplus nodes (index >= wanted) leave; they are not lost.

    A pod that has failed before any status named it counts as well.
    """
    recorded = tuple(recorded)
    pods = {node.uid: node for node in observed.nodes}
    known = {node.uid for node in recorded}
    live = [node for node in recorded if node.phase in _LIVE]
    unknown = [
        NodeStatus(index=node.index, pod=node.name, uid=node.uid)
        for node in observed.nodes
        if node.phase is Phase.FAILED and node.uid not in known
    ]
    found = (
        _loss(node, pods, observed.rendezvous, rendezvous_status) for node in (*live, *unknown) if node.index < wanted
    )
    return tuple(loss for loss in found if loss is not None)


def _loss(
    node: NodeStatus, pods: Mapping[str, NodePod], rendezvous: Rendezvous | None, recorded: RendezvousStatus
) -> Loss | None:
    pod = pods.get(node.uid)
    if pod is None:
        return Loss(node.index, node.pod, Cause.INFRASTRUCTURE, "was deleted")
    if pod.phase is Phase.TERMINATING:
        if pod.disrupted:
            return Loss(node.index, node.pod, Cause.PREEMPTION, "is being evicted or preempted")
        return Loss(node.index, node.pod, Cause.INFRASTRUCTURE, "is being deleted")
    if pod.phase is Phase.FAILED:
        cause = _cause_of_failure(node, pod, rendezvous, recorded)
        return Loss(node.index, node.pod, cause, describe(pod.exit), pod.exit)
    return None


def _cause_of_failure(
    node: NodeStatus, pod: NodePod, rendezvous: Rendezvous | None, recorded: RendezvousStatus
) -> Cause:
    if pod.disrupted:
        return Cause.PREEMPTION
    ended = pod.exit
    if ended is None or ended.reason in _MACHINE_REASONS:
        return Cause.INFRASTRUCTURE
    if ended.reason == "OOMKilled":
        return Cause.CODE  # before the exit code: it is 137 as well
    late = ended.code == 1 and node.rank is None and rendezvous is not None and rendezvous.closed
    if ended.code in _KILLED or late or _store_lost(pod, ended, rendezvous, recorded):
        return Cause.INFRASTRUCTURE
    return Cause.CODE


def _store_lost(pod: NodePod, ended: Exit, rendezvous: Rendezvous | None, recorded: RendezvousStatus) -> bool:
    """Whether the agent ended because the store did, or because it never came up: agents then exit with code 1."""
    if ended.code != 1:
        return False
    if rendezvous is None or (recorded.instance and rendezvous.instance != recorded.instance):
        return True
    since, created = recorded.since, pod.created_at
    if since is None or created is None or created >= since:
        return False
    return ended.finished_at is None or ended.finished_at <= since + _STORE_BLIP


def new_worker_failures(
    recorded: RendezvousStatus,
    rendezvous: Rendezvous | None,
    now: datetime,
    *,
    lost_now: bool,
    last_loss: datetime | None,
) -> WorkerFailures:
    """Tell failures of the workers themselves from those that a lost node explains.

    When a node dies, the survivors' collectives fail, and their agents leave the round within a second: often before
    Kubernetes says that a pod has died. So a failure waits SETTLE for such news. A loss that is seen only now may have
    happened at any time since the last pass, which was long ago where the operator was away.
    """
    if rendezvous is None:
        return WorkerFailures(0, recorded.unrequested)
    before = recorded.unrequested if rendezvous.instance == recorded.instance else 0
    fresh, at = rendezvous.unrequested - before, rendezvous.last_unrequested_at
    if fresh <= 0 or at is None:
        return WorkerFailures(0, rendezvous.unrequested)
    if lost_now or (last_loss is not None and abs(last_loss - at) <= _SAME_CAUSE):
        return WorkerFailures(0, rendezvous.unrequested)
    if now < at + SETTLE:
        return WorkerFailures(0, before, undecided_until=at + SETTLE)
    return WorkerFailures(fresh, rendezvous.unrequested, by=rendezvous.last_unrequested_by)


def pods_at(nodes: Iterable[NodeStatus], addresses: Iterable[str]) -> str:
    """Name the pods that have these addresses, for people; an address that no recorded node has stays as it is."""
    names = {node.address: f"pod {node.pod}" for node in nodes}
    return ", ".join(names.get(address, f"the node at {address}") for address in addresses) or "an unknown node"


def describe(ended: Exit | None) -> str:
    """Say in one line how a container ended."""
    if ended is None:
        return "failed"
    words = f"failed: {ended.reason}" if ended.code < 0 else f"exited with code {ended.code} ({ended.reason})"
    first = _first_line(ended.message)
    return f"{words}: {first}" if first else words


def _first_line(message: str) -> str:
    """torchrun's error file is JSON with the worker's own message inside; its text begins with that anyway."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[0][:300] if lines else ""
