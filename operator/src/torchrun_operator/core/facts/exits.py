"""How pods and containers end: by the code of the job, or because Kubernetes rejects or ends them. Pure."""

import re

from torchrun_operator.core.facts.model import Exit

KILLED = frozenset({128 + 9, 128 + 15})
"""Exit codes of SIGKILL and SIGTERM: something outside ended the container, so its log says nothing about it."""
OUT_OF_MEMORY = "OOMKilled"
"""The exit code is that of SIGKILL, but it is the code that took the memory."""
_DEADLINE = "DeadlineExceeded"
"""The pod ran longer than its own activeDeadlineSeconds."""
EVICTED = "Evicted"
PREEMPTED = "Preempting"
"""The kubelet made room for a critical pod."""
_SHUTDOWN = frozenset({"Terminated", "NodeShutdown", "Shutdown", "NodeLost"})
"""Reasons of pods whose Kubernetes node shuts down or is gone. The kubelet also calls the first one a disruption."""
_LOST_CONTAINER = frozenset({"Unknown", "ContainerStatusUnknown"})
"""A container that its Kubernetes node finds dead after it has started again."""
_OWN_LIMIT = re.compile("exceeds the limit|exceeds the total limit|exceeded its local ephemeral storage limit")
"""Evictions of a pod that used more storage than it may: the sizeLimit of an emptyDir, the limits of its containers.
A kubelet under pressure writes "The node was low on resource" instead.
"""


def exceeds_own_limit(reason: str, message: str) -> bool:
    """Whether Kubernetes ended a pod because it exceeded a limit that its own spec sets."""
    return reason == _DEADLINE or (reason == EVICTED and _OWN_LIMIT.search(message) is not None)


def by_kubernetes(ended: Exit) -> bool:
    """Whether Kubernetes rejected the pod, or ended it or its container, for a reason that is not the job's own.

    Kubelets reject pods for many reasons (OutOfcpu, TopologyAffinityError, NodeAffinity…), and each release adds some.
    A reason of a whole pod is therefore Kubernetes' own, unless the pod exceeded a limit.
    """
    if ended.of_pod:
        return not exceeds_own_limit(ended.reason, ended.message)
    return ended.reason in _LOST_CONTAINER


def by_shutdown(ended: Exit) -> bool:
    """Whether the pod ended because its Kubernetes node shuts down or is gone."""
    return ended.of_pod and ended.reason in _SHUTDOWN


def by_signal(ended: Exit) -> bool:
    """Whether something outside killed the container. The kernel does so too, when the container takes too much."""
    return ended.code in KILLED and ended.reason != OUT_OF_MEMORY
