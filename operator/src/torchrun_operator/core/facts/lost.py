"""Which pods are lost with their Kubernetes nodes. Pure.

A silent kubelet alone proves nothing: the API server may be the side that is cut off. A pod is lost if nothing else is
heard of it either, and if few Kubernetes nodes are silent, or Kubernetes or a person has already decided to delete it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from torchrun_operator.core.facts.hearing import Hearing
from torchrun_operator.core.facts.machines import UNREACHABLE, Machines, Trouble, believed_in, troubles
from torchrun_operator.core.facts.model import Phase, RendezvousPod
from torchrun_rendezvous.protocol import RendezvousState


class Judgement(NamedTuple):
    """Whether a pod is lost."""

    why: str = ""
    """What happened to its Kubernetes node, for people. Empty: the pod is not lost."""
    wait: float | None = None
    """Seconds after which the pod is lost if nothing changes. None: no time makes it lost."""


@dataclass(frozen=True)
class Evidence:
    """What is known of a job's Kubernetes nodes and of the processes on them."""

    machines: Machines
    rendezvous: RendezvousState | None
    hearing: Hearing
    tolerates: bool = False
    """The job's template says itself how long its pods tolerate a silent Kubernetes node."""

    def of_host(self, pod: Mapping[str, Any], *, answers: bool) -> Judgement:
        """Judge the rendezvous pod. ``answers``: a live one could answer the operator."""
        if self.rendezvous is not None:
            return self._judge(pod, math.inf)
        return self._judge(pod, self.hearing.host_silent_in() if answers else 0.0)

    def of_node(self, pod: Mapping[str, Any], host: RendezvousPod | None) -> Judgement:
        """Judge the pod of a node. If no rendezvous host runs, its agent cannot train."""
        if self.rendezvous is not None:
            address = (pod.get("status") or {}).get("podIP")
            return self._judge(pod, self.hearing.agent_silent_in(address, self.rendezvous))
        if host is None or host.phase is not Phase.RUNNING:
            return self._judge(pod, 0.0)
        # The rendezvous host may hear an agent that the operator cannot ask it about.
        return self._judge(pod, self.hearing.host_silent_in() if _is_deleted(pod) else math.inf)

    @cached_property
    def _troubles(self) -> dict[str, Trouble]:
        return troubles(self.machines)

    @cached_property
    def _believed_in(self) -> dict[str, float]:
        return believed_in(self.machines)

    def _judge(self, pod: Mapping[str, Any], silent_in: float) -> Judgement:
        """Judge a pod of which nothing is heard once ``silent_in`` seconds have passed."""
        name = pod["spec"].get("nodeName") or ""
        trouble = self._troubles.get(name)
        if trouble is None or trouble.certain:
            return Judgement(trouble.what if trouble is not None else "")
        wait = silent_in
        if not _is_deleted(pod):
            if self.tolerates:
                return Judgement()
            wait = max(wait, self._believed_in.get(name, 0.0))
        if wait > 0:
            return Judgement(wait=wait if math.isfinite(wait) else None)
        return Judgement(trouble.what)


def tolerates_silence(pod_spec: Mapping[str, Any]) -> bool:
    """Whether a template says how long its pods stay on a silent Kubernetes node.

    Kubernetes then deletes them at that time, or never. A toleration of all taints says nothing about this one.
    """
    return any(
        toleration.get("key") == UNREACHABLE and toleration.get("effect") in (None, "", "NoExecute")
        for toleration in pod_spec.get("tolerations") or ()
    )


def _is_deleted(pod: Mapping[str, Any]) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))
