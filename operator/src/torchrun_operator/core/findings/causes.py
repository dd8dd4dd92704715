"""Why a node failed: code, infrastructure or preemption."""

import signal
from datetime import timedelta

from torchrun_operator.api.v1alpha1 import NodeStatus, RendezvousStatus
from torchrun_operator.core.facts.exits import OUT_OF_MEMORY, by_kubernetes, by_shutdown, by_signal
from torchrun_operator.core.facts.model import Cause, Exit, NodePod
from torchrun_operator.core.facts.words import Words, of_termination
from torchrun_rendezvous.protocol import RendezvousState

_MACHINE_DISRUPTIONS = frozenset({"DeletionByPodGC"})
"""Reasons of the condition DisruptionTarget that mean that the Kubernetes node is gone."""
_STORE_BLIP = timedelta(seconds=90)
"""After the store ends, agents end within a second or two if its connections are closed. If the pod of the store is
cut off, they first wait for an answer (read_timeout, 60 s by default) and then for their workers.
"""


def cause_of_disruption(pod: NodePod) -> Cause:
    """Return the cause of Kubernetes' disruption of the pod."""
    machine = not pod.disruption or pod.disruption in _MACHINE_DISRUPTIONS
    return Cause.INFRASTRUCTURE if machine else Cause.PREEMPTION


def cause_of_failure(
    node: NodeStatus,
    pod: NodePod,
    rendezvous: RendezvousState | None,
    recorded: RendezvousStatus,
    *,
    stored: bool = True,
) -> Cause:
    """Return the cause of a pod's failure. ``node`` and ``recorded`` are from the status of the previous pass.

    ``stored``: the agents use the store of a rendezvous host, and end with it.
    """
    ended = pod.exit
    if ended is not None and by_shutdown(ended):
        return Cause.INFRASTRUCTURE
    if pod.disruption:
        return cause_of_disruption(pod)
    if ended is None or by_kubernetes(ended):
        return Cause.INFRASTRUCTURE
    if ended.of_pod or ended.reason == OUT_OF_MEMORY:
        return Cause.CODE  # before the exit code: that of SIGKILL, as a rule
    late = ended.code == 1 and node.rank is None and rendezvous is not None and rendezvous.closed
    agent = stored and not ended.container and (late or _store_lost(pod, ended, rendezvous, recorded))
    if by_signal(ended) or agent:
        return Cause.INFRASTRUCTURE
    return Cause.CODE


def _store_lost(pod: NodePod, ended: Exit, rendezvous: RendezvousState | None, recorded: RendezvousStatus) -> bool:
    """Whether the agent ended because the store ended or never started: agents then exit with code 1."""
    if ended.code != 1:
        return False
    if rendezvous is None or (recorded.instance and rendezvous.instance != recorded.instance):
        return True
    since, created = recorded.since, pod.created_at
    if since is None or created is None or created >= since:
        return False
    return ended.finished_at is None or ended.finished_at <= since + _STORE_BLIP


def describe(ended: Exit | None, logged: Words | None = None) -> str:
    """Describe in one line how a container ended. ``logged`` are its words, if it left no termination message."""
    if ended is None:
        return "failed"
    detail = f" ({_detail(ended)})" if _detail(ended) else ""
    words = f"failed: {ended.reason}" if ended.code < 0 else f"exited with code {ended.code}{detail}"
    if ended.container:
        words = f"failed: container {ended.container} {words}"
    said = (of_termination(ended.message).message or (logged or Words()).message)[:300]
    return f"{words}: {said}" if said else words


def _detail(ended: Exit) -> str:
    return signal_name(ended.code) if ended.reason in ("", "Error") and signal_name(ended.code) else ended.reason


def signal_name(code: int) -> str:
    """Return the signal behind an exit code: 128 + number for a container, minus the number for a worker."""
    number = -code if code < 0 else code - 128
    return next((known.name for known in signal.Signals if known == number), "")
