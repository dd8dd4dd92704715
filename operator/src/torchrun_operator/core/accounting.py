"""Restarts by cause: which losses are new since the last status, and whose fault each was.

A loss is counted when a node that the status records as live is seen dead or gone; the same status that counts it
records the node as dead, so it is counted once, whatever crashes in between.
"""

import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from torchrun_operator.api.v1alpha1 import Failure, NodeStatus, RendezvousStatus
from torchrun_operator.core.observed import Cause, Exit, NodePod, Observed, Phase, Rendezvous
from torchrun_operator.core.words import of_termination

_LIVE = frozenset({Phase.PENDING, Phase.STARTING, Phase.RUNNING})
_KILLED = frozenset({128 + 9, 128 + 15})
"""Exit codes of SIGKILL and SIGTERM: somebody or something outside ended the container."""
_MACHINE_REASONS = frozenset(
    {"NodeLost", "NodeShutdown", "Terminated", "Shutdown", "NodeAffinity", "UnexpectedAdmissionError", "Unknown"}
)
"""Unknown is what containerd says of a container that it finds dead after the machine has started again."""
_MACHINE_DISRUPTIONS = frozenset({"DeletionByPodGC"})
"""Reasons of the condition DisruptionTarget that speak of a machine that is gone."""
_STORE_BLIP = timedelta(seconds=90)
"""Agents end within a second or two of the store's death where its connections are closed. Where its pod went without
a word they wait for an answer first (read_timeout, 60 s by default) and then for their workers.
"""
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
    rank: int | None = None
    """Its group rank, if it was a member."""
    machine: str | None = None
    created_at: datetime | None = None
    spare: bool = False
    """Nobody trained on it, so nothing restarts and nothing is counted."""


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
    recorded: Iterable[NodeStatus],
    observed: Observed,
    node_pods: int,
    rendezvous_status: RendezvousStatus,
    *,
    full: bool = False,
) -> tuple[Loss, ...]:
    """Return the losses that no status has counted yet. Surplus nodes (index >= node_pods) leave; they are not lost.

    A pod that has failed before any status named it counts as well: as a spare if the round is `full` without it.
    """
    recorded = tuple(recorded)
    pods = {node.uid: node for node in observed.nodes}
    known = {node.uid for node in recorded}
    live = [node for node in recorded if node.phase in _LIVE]
    unknown = [
        NodeStatus(index=node.index, pod=node.name, uid=node.uid, address=node.address, spare=full or None)
        for node in observed.nodes
        if node.phase is Phase.FAILED and node.uid not in known
    ]
    found = (
        (node, _loss(node, pods, observed, rendezvous_status)) for node in (*live, *unknown) if node.index < node_pods
    )
    rendezvous = observed.rendezvous
    return tuple(replace(loss, spare=_was_spare(node, rendezvous)) for node, loss in found if loss is not None)


def _was_spare(node: NodeStatus, rendezvous: Rendezvous | None) -> bool:
    """Whether nobody trained on the node; while a round forms it may have been on its way in, and is taken to be."""
    if not node.spare:
        return False
    if rendezvous is None or rendezvous.closed:
        return True
    return rendezvous.complete and all(address != node.address for address, _ in rendezvous.members)


def _loss(node: NodeStatus, pods: Mapping[str, NodePod], observed: Observed, recorded: RendezvousStatus) -> Loss | None:
    pod = pods.get(node.uid)

    def loss(cause: Cause, what: str) -> Loss:
        if pod is None:
            return Loss(node.index, node.pod, cause, what, rank=node.rank, machine=node.machine)
        ended = pod.exit if pod.phase is Phase.FAILED else None
        return Loss(node.index, node.pod, cause, what, ended, node.rank, pod.machine, pod.created_at)

    if pod is None:
        return loss(Cause.INFRASTRUCTURE, "was deleted")
    if pod.phase is Phase.LOST:
        return loss(Cause.INFRASTRUCTURE, f"is lost: {pod.trouble}")
    if pod.phase is Phase.TERMINATING:
        if pod.disruption in _MACHINE_DISRUPTIONS or not pod.disruption:
            return loss(Cause.INFRASTRUCTURE, "is being deleted")
        return loss(Cause.PREEMPTION, f"is being evicted or preempted ({pod.disruption})")
    if pod.phase is Phase.FAILED:
        return loss(_cause_of_failure(node, pod, observed.rendezvous, recorded), describe(pod.exit))
    host = observed.rendezvous_pod
    if pod.phase is Phase.RUNNING and host is not None and host.phase is Phase.LOST:
        return loss(Cause.INFRASTRUCTURE, f"has lost the rendezvous host: {host.trouble}")
    return None


def failed_by_code(
    pod: NodePod, recorded: Iterable[NodeStatus], rendezvous: Rendezvous | None, rendezvous_status: RendezvousStatus
) -> bool:
    """Tell whether the code made a failed pod fail, whether its loss is being counted now or was before."""
    unknown = NodeStatus(index=pod.index, pod=pod.name, uid=pod.uid)
    node = next((node for node in recorded if node.uid == pod.uid), unknown)
    return _cause_of_failure(node, pod, rendezvous, rendezvous_status) is Cause.CODE


def _cause_of_failure(
    node: NodeStatus, pod: NodePod, rendezvous: Rendezvous | None, recorded: RendezvousStatus
) -> Cause:
    if pod.disruption:
        return Cause.INFRASTRUCTURE if pod.disruption in _MACHINE_DISRUPTIONS else Cause.PREEMPTION
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


def code_failures(losses: Iterable[Loss], last: Failure | None) -> int:
    """Return how many failures of the code these losses are: one, however many nodes it ended, or none where the last
    failure counted was the same one. A pod made after that has failed anew.
    """
    return int(any(loss.cause is Cause.CODE and not _same(loss, last) for loss in losses))


def _same(loss: Loss, last: Failure | None) -> bool:
    ended = loss.exit.finished_at if loss.exit is not None else None
    if last is None or last.cause != Cause.CODE or ended is None or loss.created_at is None:
        return False
    return loss.created_at <= last.time and abs(ended - last.time) <= _SAME_CAUSE


def describe(ended: Exit | None) -> str:
    """Say in one line how a container ended."""
    if ended is None:
        return "failed"
    detail = f" ({_detail(ended)})" if _detail(ended) else ""
    words = f"failed: {ended.reason}" if ended.code < 0 else f"exited with code {ended.code}{detail}"
    said = of_termination(ended.message).message[:300]
    return f"{words}: {said}" if said else words


def _detail(ended: Exit) -> str:
    return signal_name(ended.code) if ended.reason in ("", "Error") and signal_name(ended.code) else ended.reason


def signal_name(code: int) -> str:
    """Name the signal that an exit code tells of: a container's is 128 and the number, a worker's minus the number."""
    number = -code if code < 0 else code - 128
    return next((known.name for known in signal.Signals if known == number), "")
