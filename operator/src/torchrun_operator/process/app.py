"""The running operator: kopf, the workers and the resync, supervised as one: where any of them ends, all end."""

import asyncio
import functools
import logging
import signal
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version

import aiohttp

from torchrun_operator.cluster.kubernetes import connect
from torchrun_operator.cluster.port import Key, Manifest
from torchrun_operator.cluster.watch.jobs import Seen, watch
from torchrun_operator.process.endpoints import health_app, serving
from torchrun_operator.programs import zipapp
from torchrun_operator.reconcile.loop import resync, work
from torchrun_operator.reconcile.queue import WorkQueue
from torchrun_operator.reconcile.reconciler import Reconciler
from torchrun_operator.render.programs import Programs
from torchrun_operator.rendezvous.client import open_socket
from torchrun_operator.rendezvous.links import RendezvousLinks
from torchrun_operator.settings import Settings
from torchrun_operator.telemetry.health import Liveness, Readiness
from torchrun_operator.telemetry.metrics import Metrics

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
    cluster = await connect(metrics.api_request, queue.add, settings.watch_namespaces)
    async with (
        # A long poll is open for each job: no bound on connections but the jobs.
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, socket_factory=open_socket)) as session,
        serving(health_app(liveness, readiness, metrics), settings.http_host, settings.http_port),
    ):
        links = RendezvousLinks(session, settings.read_key(), queue.add, metrics)
        reconciler = Reconciler(
            cluster,
            links,
            metrics,
            lambda: datetime.now(UTC),
            Programs(rendezvous=zipapp("torchrun_rendezvous"), launcher=zipapp("torchrun_launcher")),
            operator_namespace=settings.namespace,
            resync_seconds=settings.resync_seconds,
            progress_interval=settings.progress_interval,
        )
        workers = [
            asyncio.create_task(work(queue, reconciler, metrics, liveness, settings), name=f"worker {number}")
            for number in range(settings.workers)
        ]

        def seen(key: Key, job: Manifest | None) -> None:
            cluster.saw_job(key, job)
            queue.add(key)

        unwatch = threading.Event()
        others = [
            asyncio.create_task(resync(queue, cluster, readiness, settings), name="resync"),
            asyncio.create_task(cluster.follow_pods(), name="pod mirror"),
            asyncio.create_task(_beat(liveness), name="heartbeat"),
            asyncio.create_task(_watch(seen, readiness, settings.watch_namespaces, unwatch), name="watching"),
        ]
        try:
            return await _supervise(stop, queue, workers, others)
        finally:
            unwatch.set()
            await links.aclose()
            await cluster.aclose()


async def _beat(liveness: Liveness) -> None:
    """Show that the event loop turns: a blocked one answers no probe, a starved one is late here."""
    liveness.expect("event loop", _LOOP_STALL_SECONDS)
    while True:
        liveness.beat("event loop")
        await asyncio.sleep(_BEAT_SECONDS)


async def _watch(seen: Seen, readiness: Readiness, namespaces: Sequence[str], stop: threading.Event) -> None:
    """Run kopf in a thread and an event loop of its own.

    In ours it would take over the signals, and cancel whatever tasks it does not know when it stops, passes included.
    """
    loop, ready = asyncio.get_running_loop(), threading.Event()
    pass_on = functools.partial(_from_thread, loop, seen)
    watching = asyncio.create_task(asyncio.to_thread(watch, pass_on, namespaces, stop, ready))
    await asyncio.to_thread(ready.wait)
    readiness.reached("watching")
    await watching


def _from_thread(loop: asyncio.AbstractEventLoop, seen: Seen, key: Key, job: Manifest | None) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(seen, key, job)


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
