"""Records events in the background. No action waits for them, and nothing depends on them."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from torchrun_operator.api.base import rfc3339
from torchrun_operator.api.names import API_VERSION, KIND, MANAGED_BY
from torchrun_operator.cluster.port import Cluster, ClusterError, Manifest
from torchrun_operator.core.events import Event
from torchrun_operator.telemetry.logs import job_context

logger = logging.getLogger(__name__)

_MOST_WAITING = 1000
"""With more than this the API server is in trouble; the oldest events are dropped."""
_MESSAGE_CHARACTERS = 1024
"""The maximum length of a message that the API server accepts."""


class EventRecorder:
    """Records events one at a time."""

    def __init__(self, cluster: Cluster, clock: Callable[[], datetime]) -> None:
        """Clock tells the time in UTC."""
        self._cluster = cluster
        self._clock = clock
        self._waiting: deque[Manifest] = deque(maxlen=_MOST_WAITING)
        self._task: asyncio.Task[None] | None = None

    def tell(self, raw: Manifest, events: Sequence[Event]) -> None:
        """Log events about a job, and queue them for recording. Returns at once."""
        for event in events:
            logger.log(logging.WARNING if event.warning else logging.INFO, "%s: %s", event.reason, event.message)
            self._waiting.append(_manifest(raw, event, self._clock()))
        if self._waiting and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._record(), name="event recorder")

    async def idle(self) -> None:
        """Wait until all events are recorded."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def aclose(self, seconds: float) -> None:
        """Record the waiting events for at most this long, and drop the rest."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=seconds)
        self.close()
        await self.idle()

    def close(self) -> None:
        """Drop the waiting events."""
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()

    async def _record(self) -> None:
        while self._waiting:
            event = self._waiting.popleft()
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
        "message": event.message[:_MESSAGE_CHARACTERS],
        "source": {"component": MANAGED_BY},
        "firstTimestamp": rfc3339(now),
        "lastTimestamp": rfc3339(now),
        "count": 1,
    }
