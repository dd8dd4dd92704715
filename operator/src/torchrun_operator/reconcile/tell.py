"""Records events in the background. No action waits for them, and nothing depends on them."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from torchrun_operator.allowance import Allowance
from torchrun_operator.api.base import rfc3339
from torchrun_operator.api.names import API_VERSION, KIND, MANAGED_BY
from torchrun_operator.cluster.port import Cluster, ClusterError, Manifest
from torchrun_operator.core.events import Event
from torchrun_operator.telemetry.logs import job_context

logger = logging.getLogger(__name__)

_MOST_WAITING = 200
"""Of one namespace. With more than this the API server is in trouble there; the oldest events are dropped."""
_EVENTS = Allowance(burst=50, seconds=10.0)
"""Of one job. Whoever can make a job change can make it report changes."""
_MOST_JOBS = 10_000
_MESSAGE_BYTES = 1024
"""The maximum length of a message that the API server accepts."""


class EventRecorder:
    """Records the events of each namespace one at a time. A namespace that does not answer delays no other."""

    def __init__(self, cluster: Cluster, clock: Callable[[], datetime]) -> None:
        """Clock tells the time in UTC."""
        self._cluster = cluster
        self._clock = clock
        self._waiting: dict[str, deque[Manifest]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._allowances: dict[str, Allowance] = {}
        """By the uid of the job."""

    def tell(self, raw: Manifest, events: Sequence[Event]) -> None:
        """Log events about a job, and queue them for recording. Returns at once. Drops those above the allowance."""
        namespace = raw["metadata"]["namespace"]
        for event in events:
            if not self._allowance(raw["metadata"]["uid"]).permits(self._clock().timestamp()):
                logger.debug("too many events of the job: %s: %s", event.reason, event.message)
                continue
            logger.log(logging.WARNING if event.warning else logging.INFO, "%s: %s", event.reason, event.message)
            waiting = self._waiting.setdefault(namespace, deque(maxlen=_MOST_WAITING))
            waiting.append(_manifest(raw, event, self._clock()))
        if self._waiting.get(namespace) and namespace not in self._tasks:
            recording = self._record(namespace, self._waiting[namespace])
            self._tasks[namespace] = asyncio.get_running_loop().create_task(recording, name="event recorder")

    def _allowance(self, uid: str) -> Allowance:
        if uid not in self._allowances and len(self._allowances) >= _MOST_JOBS:
            del self._allowances[next(iter(self._allowances))]
        return self._allowances.setdefault(uid, replace(_EVENTS))

    async def idle(self) -> None:
        """Wait until all events are recorded."""
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    async def aclose(self, seconds: float) -> None:
        """Record the waiting events for at most this long, and drop the rest."""
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=seconds)
        self.close()
        await self.idle()

    def close(self) -> None:
        """Drop the waiting events."""
        self._waiting.clear()
        for task in self._tasks.values():
            task.cancel()

    async def _record(self, namespace: str, waiting: deque[Manifest]) -> None:
        try:
            while waiting:
                await self._create(waiting.popleft())
        finally:
            self._waiting.pop(namespace, None)
            del self._tasks[namespace]

    async def _create(self, event: Manifest) -> None:
        about = event["involvedObject"]
        with job_context(about["namespace"], about["name"]):
            try:
                await self._cluster.create_event(event)
            except ClusterError as error:
                logger.warning("cannot record the event %s: %s", event["reason"], error)
            except Exception:
                logger.exception("cannot record the event %s", event["reason"])


def _manifest(raw: Manifest, event: Event, now: datetime) -> dict[str, Any]:
    metadata = raw["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{metadata['name']}-", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "type": "Warning" if event.warning else "Normal",
        "reason": event.reason,
        "message": event.message.encode(errors="replace")[:_MESSAGE_BYTES].decode(errors="ignore"),
        "source": {"component": MANAGED_BY},
        "firstTimestamp": rfc3339(now),
        "lastTimestamp": rfc3339(now),
        "count": 1,
    }
