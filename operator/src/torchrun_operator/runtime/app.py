"""The running operator: kopf, the workers and the resync, supervised as one: where any of them ends, all end."""

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

import aiohttp
import kopf

from torchrun_operator.cluster.kubernetes import connect
from torchrun_operator.rendezvous.client import host_source
from torchrun_operator.runtime.handlers import registry, watch_settings
from torchrun_operator.runtime.health import Liveness, Readiness, health_app, serving
from torchrun_operator.runtime.links import Key, RendezvousLinks
from torchrun_operator.runtime.metrics import Metrics
from torchrun_operator.runtime.queue import WorkQueue
from torchrun_operator.runtime.reconciler import Reconciler
from torchrun_operator.runtime.work import resync, work
from torchrun_operator.settings import Settings

logger = logging.getLogger(__name__)

_STOP_SECONDS = 10.0
_BEAT_SECONDS = 1.0
_LOOP_STALL_SECONDS = 30.0


async def run(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; return the exit status: 0, or 1 where a part failed and brought the others down."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics, liveness = Metrics(version("torchrun-operator")), Liveness()
    readiness = Readiness(["jobs listed", "watching"])
    queue: WorkQueue[Key] = WorkQueue(time.monotonic, settings.min_reconcile_interval)
    metrics.watch_queue(lambda: queue.depth, lambda: queue.oldest_wait_seconds)
    cluster = await connect(metrics.api_request, settings.watch_namespaces)
    async with (
        aiohttp.ClientSession() as session,
        serving(health_app(liveness, readiness, metrics), settings.http_host, settings.http_port),
    ):
        links = RendezvousLinks(session, settings.read_key(), queue.add, metrics)
        reconciler = Reconciler(
            cluster,
            links,
            metrics,
            lambda: datetime.now(UTC),
            host_source(),
            resync_seconds=settings.resync_seconds,
            progress_interval=settings.progress_interval,
        )
        workers = [
            asyncio.create_task(work(queue, reconciler, metrics, liveness, settings), name=f"worker {number}")
            for number in range(settings.workers)
        ]
        others = [
            asyncio.create_task(resync(queue, cluster, readiness, settings), name="resync"),
            asyncio.create_task(_beat(liveness), name="heartbeat"),
        ]
        try:
            with _watching(queue, readiness, settings) as watching:
                return await _supervise(stop, queue, workers, [*others, watching])
        finally:
            await links.aclose()
            await cluster.aclose()


async def _beat(liveness: Liveness) -> None:
    """Show that the event loop turns: a blocked one answers no probe, a starved one is late here."""
    liveness.expect("event loop", _LOOP_STALL_SECONDS)
    while True:
        liveness.beat("event loop")
        await asyncio.sleep(_BEAT_SECONDS)


class _watching:  # noqa: N801 - a context manager
    """Kopf in a thread and an event loop of its own.

    In ours it would take over the signals and cancel whatever tasks it does not know when it stops, passes included.
    """

    def __init__(self, queue: WorkQueue[Key], readiness: Readiness, settings: Settings) -> None:
        loop = asyncio.get_running_loop()
        self._stop, self._ready = threading.Event(), threading.Event()
        self._namespaces = settings.watch_namespaces
        self._wake: Callable[[Key], None] = lambda key: _from_thread(loop, queue.add, key)
        self._reached = lambda: readiness.reached("watching")

    def __enter__(self) -> "asyncio.Task[None]":
        self._task = asyncio.create_task(self._watch(), name="watching")
        return self._task

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    async def _watch(self) -> None:
        thread = asyncio.create_task(asyncio.to_thread(self._run))
        ready = asyncio.create_task(asyncio.to_thread(self._ready.wait))
        await asyncio.wait([thread, ready], return_when=asyncio.FIRST_COMPLETED)
        self._reached()
        await thread

    def _run(self) -> None:
        try:
            kopf.run(
                registry=registry(self._wake),
                settings=watch_settings(),
                standalone=True,
                clusterwide=not self._namespaces,
                namespaces=self._namespaces,
                stop_flag=self._stop,
                ready_flag=self._ready,
            )
        finally:
            self._ready.set()


def _from_thread(loop: asyncio.AbstractEventLoop, add: Callable[[Key], None], key: Key) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(add, key)


async def _supervise(
    stop: asyncio.Event,
    queue: WorkQueue[Key],
    workers: Sequence["asyncio.Task[None]"],
    others: Sequence["asyncio.Task[None]"],
) -> int:
    """Wait for the signal, or for a part that ends by itself; then let the passes under way end."""
    stopping = asyncio.create_task(stop.wait(), name="signal")
    done, _ = await asyncio.wait([stopping, *workers, *others], return_when=asyncio.FIRST_COMPLETED)
    failed = [task for task in done if task is not stopping]
    for task in failed:
        logger.error("%s has ended: the operator stops", task.get_name(), exc_info=task.exception())
    logger.info("stopping: passes under way have %.0f s to end", _STOP_SECONDS)
    queue.close()
    _, late = await asyncio.wait(workers, timeout=_STOP_SECONDS)
    for task in [*late, *others, stopping]:
        task.cancel()
    return 1 if failed else 0
