"""Writes the status: at once if a client acts on the change, and at intervals if only the progress changes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from torchrun_operator.cluster.port import Cluster, Key, Manifest
from torchrun_operator.core.decide import Decision
from torchrun_operator.core.facts.model import LIVE, Phase
from torchrun_operator.reconcile.memory import Memory

_FIRST_STATUS_SECONDS = 2.0
_DETAIL_SECONDS = 2.0
_UNSTARTED = frozenset({Phase.PENDING, Phase.STARTING})


@dataclass(frozen=True)
class Written:
    """The result of a write of the status."""

    changed: bool = False
    """The status changed and was written."""
    waits_seconds: float | None = None
    """Seconds until a changed status is due. None: no change waits."""
    rest_seconds: float = 0.0
    """The next pass begins no sooner, in seconds."""


class StatusWriter:
    """Writes statuses that have changed."""

    def __init__(self, cluster: Cluster, clock: Callable[[], datetime], progress_interval: float) -> None:
        """Write statuses that report nothing but progress every ``progress_interval`` seconds."""
        self._cluster = cluster
        self._clock = clock
        self._progress_interval = progress_interval

    async def write(self, key: Key, raw: Manifest, decision: Decision, memory: Memory) -> Written:
        """Write the status if it is due. Raises ClusterError, and ConflictError if the job has changed."""
        new, before, now = decision.status.wire(), raw.get("status") or {}, self._clock()
        if new == before:
            return Written()
        if not before and _records_nothing(new) and decision.plan.create_nodes:
            # Creating pods deletes no information. The next status reports them.
            return Written(waits_seconds=_FIRST_STATUS_SECONDS, rest_seconds=_FIRST_STATUS_SECONDS)
        last = memory.status_written_at
        if last is not None and _substance(new) == _substance(before):
            interval = self._progress_interval if _only_progress(new, before) else _DETAIL_SECONDS
            wait = interval - (now - last).total_seconds()
            if wait > 0:
                return Written(waits_seconds=wait)
        await self._cluster.apply_status(*key, raw["metadata"]["resourceVersion"], new)
        memory.status_written_at = now
        return Written(changed=True)


def _records_nothing(status: Mapping[str, Any]) -> bool:
    """Tell whether a status names no pod and nothing that was refused."""
    return not status.get("nodes") and "refusal" not in status


def _only_progress(new: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    details = {"progress": None, "goodput": None, "straggler": None}
    return {**new, **details} == {**before, **details}


def _substance(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of the status that must be written at once: what other clients act on, and counts of losses.

    The rest may wait: the progress of pods, and the wording of messages. Otherwise a start would write the status a
    dozen times.
    """
    nodes = [
        (node["index"], node.get("rank"), node.get("uid") if node.get("phase") not in _UNSTARTED else None)
        for node in status.get("nodes", ())
    ]
    dead = [(node["index"], node["phase"]) for node in status.get("nodes", ()) if node.get("phase") not in LIVE]
    conditions = [(c["type"], c["status"], c["reason"]) for c in status.get("conditions", ())]
    left_out = ("progress", "goodput", "straggler", "replicas", "readyReplicas", "nodes", "message", "conditions")
    rest = {key: value for key, value in status.items() if key not in left_out}
    return {**rest, "nodes": nodes, "dead": dead, "conditions": conditions}
