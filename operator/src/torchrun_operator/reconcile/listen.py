"""Reads the events of pods that wait without saying why: only events name a volume that cannot be mounted."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from torchrun_operator.cluster.port import Cluster, ClusterError
from torchrun_operator.core.facts.model import NO_WAIT, Facts, NodePod, Phase, RendezvousPod, Stage, Wait
from torchrun_operator.core.facts.waiting import completed, names_no_cause, told

logger = logging.getLogger(__name__)

_MOST_PODS = 3
"""Pods whose events are read at a time. A thousand pods of one job usually wait for the same thing."""
_PAUSES = (3.0, 3.0, 5.0, 10.0, 20.0)
"""Seconds until the events of a waiting pod are read first, and then from one read to the next."""


@dataclass
class Hearing:
    """What the events of a waiting pod have told."""

    due: datetime
    """When to read them next, by the operator's clock."""
    reads: int = 0
    wait: Wait = NO_WAIT


@dataclass
class Hearings:
    """What the events of a job's waiting pods have told, by uid. A new operator reads them again."""

    by_uid: dict[str, Hearing] = field(default_factory=dict)

    def due_seconds(self, now: datetime) -> float | None:
        """Return the seconds until the next events are due. None: no pod waits without a cause."""
        return min((max(0.0, (each.due - now).total_seconds()) for each in self.by_uid.values()), default=None)


class Listener:
    """Completes the facts about pods that wait."""

    def __init__(self, cluster: Cluster, clock: Callable[[], datetime]) -> None:
        """Clock tells the time in UTC."""
        self._cluster = cluster
        self._clock = clock

    async def listen(self, facts: Facts, hearings: Hearings) -> Facts:
        """Return the facts with what the events of waiting pods tell. Reads few events, and seldom."""
        silent = [pod for pod in _waiting(facts) if names_no_cause(pod.wait)][:_MOST_PODS]
        now = self._clock()
        first = now + timedelta(seconds=_PAUSES[0])
        known = {pod.uid: hearings.by_uid.get(pod.uid) or Hearing(first) for pod in silent}
        hearings.by_uid = known
        namespace = facts.job.metadata.namespace
        await asyncio.gather(
            *[self._hear(namespace, pod, known[pod.uid], now) for pod in silent if known[pod.uid].due <= now]
        )
        return completed(facts, {uid: hearing.wait for uid, hearing in known.items()})

    async def _hear(self, namespace: str, pod: NodePod | RendezvousPod, hearing: Hearing, now: datetime) -> None:
        """Read the events of a pod. If they cannot be read, it keeps what they told before: nothing depends on it."""
        hearing.reads += 1
        hearing.due = now + timedelta(seconds=_PAUSES[min(hearing.reads, len(_PAUSES) - 1)])
        try:
            hearing.wait = told(await self._cluster.list_events(namespace, pod.uid))
        except ClusterError as error:
            level = logging.WARNING if hearing.reads == 1 else logging.DEBUG
            logger.log(level, "cannot read the events of pod %s: %s", pod.name, error)


def _waiting(facts: Facts) -> list[NodePod | RendezvousPod]:
    """Return the pods of an active job that have a Kubernetes node and do not run, the rendezvous pod first."""
    if facts.stage is not Stage.ACTIVE:
        return []
    host = facts.rendezvous_pod
    pods: list[NodePod | RendezvousPod] = [host] if host is not None else []
    return [pod for pod in (*pods, *facts.nodes) if pod.phase is Phase.STARTING]
