"""Wiring: creates the parts, connects them, and starts their tasks."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version

from torchrun_operator.cluster.kubernetes import KubernetesCluster, connect
from torchrun_operator.cluster.port import Key
from torchrun_operator.cluster.watch.base import HEARTBEAT_SECONDS, awaited, unreadable
from torchrun_operator.process.clock import SteadyClock
from torchrun_operator.process.endpoints import health_app, serving
from torchrun_operator.process.supervision import Task, beat, keep
from torchrun_operator.programs import zipapp
from torchrun_operator.reconcile.loop import namespace_of, resync, work
from torchrun_operator.reconcile.queue import WorkQueue
from torchrun_operator.reconcile.reconciler import Reconciler
from torchrun_operator.render.programs import Programs
from torchrun_operator.rendezvous.links import RendezvousLinks
from torchrun_operator.settings import Settings
from torchrun_operator.telemetry.health import Liveness, Readiness
from torchrun_operator.telemetry.metrics import Metrics

_EVENTS_SECONDS = 2.0
"""Maximum time to record events when the operator stops."""


@dataclass(frozen=True)
class Operator:
    """The parts that the tasks need."""

    settings: Settings
    metrics: Metrics
    liveness: Liveness
    readiness: Readiness
    queue: WorkQueue[Key]
    cluster: KubernetesCluster
    reconciler: Reconciler

    def worker(self) -> Task:
        """Start the task that makes the passes."""
        passes = work(self.queue, self.reconciler, self.metrics, self.liveness, self.settings)
        return asyncio.create_task(passes, name="passes")

    def others(self) -> list[Task]:
        """Start all other tasks that run until the operator stops."""
        return [
            *(
                asyncio.create_task(
                    resync(self.queue, self.cluster, namespace, self.readiness, self.settings), name="resync"
                )
                for namespace in self.cluster.namespaces
            ),
            asyncio.create_task(beat(self.liveness), name="heartbeat"),
            *(asyncio.create_task(keep(watch), name=watch.name) for watch in self.cluster.watches),
        ]


@asynccontextmanager
async def operator(settings: Settings) -> AsyncIterator[Operator]:
    """Create the operator and serve its endpoints inside the block. No task runs yet."""
    metrics, liveness = Metrics(version("torchrun-operator")), Liveness()
    queue: WorkQueue[Key] = WorkQueue(time.monotonic, namespace_of, settings.workers, settings.min_reconcile_interval)
    metrics.watch_queue(lambda: queue.depth, lambda: queue.oldest_wait_seconds)
    cluster = await connect(metrics.api_request, queue.add, settings.watch_namespaces)
    report_watches(cluster, liveness, metrics)
    readiness = Readiness(
        ["jobs listed"], others=lambda: awaited(cluster.watches), notes=lambda: unreadable(cluster.watches)
    )
    async with serving(health_app(liveness, readiness, metrics), settings.http_host, settings.http_port):
        clock = SteadyClock()
        links = RendezvousLinks(settings.read_key(), queue.add, metrics, clock)
        reconciler = Reconciler(
            cluster,
            links,
            metrics,
            clock,
            Programs(
                rendezvous=zipapp("torchrun_rendezvous"),
                launcher=zipapp("torchrun_launcher"),
                transfer=zipapp("torchrun_transfer"),
            ),
            operator_namespace=settings.namespace,
            resync_seconds=settings.resync_seconds,
            progress_interval=settings.progress_interval,
        )
        try:
            yield Operator(settings, metrics, liveness, readiness, queue, cluster, reconciler)
        finally:
            await reconciler.recorder.aclose(_EVENTS_SECONDS)
            await links.aclose()
            await cluster.aclose()


def report_watches(cluster: KubernetesCluster, liveness: Liveness, metrics: Metrics) -> None:
    """Show the state of each watch in /healthz and /metrics."""
    for watch in cluster.watches:
        liveness.follow(watch.name, HEARTBEAT_SECONDS, lambda watch=watch: watch.silent_seconds)  # type: ignore[misc]
        metrics.follow_watch(
            watch.kind,
            watch.namespace,
            lambda watch=watch: watch.up,  # type: ignore[misc]
            lambda watch=watch: watch.forbidden is not None,  # type: ignore[misc]
        )
