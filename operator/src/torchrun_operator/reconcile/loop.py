"""Makes a pass for each turn of the queue. Every job gets a turn at the resync interval, even if nothing changes."""

import asyncio
import logging
import random
import time
from typing import Protocol

from torchrun_operator.cluster.port import Cluster, ClusterError, ConflictError, Key
from torchrun_operator.reconcile.queue import QueueClosed, WorkQueue
from torchrun_operator.reconcile.reconciler import Outcome
from torchrun_operator.settings import Settings
from torchrun_operator.telemetry.health import Liveness, Readiness
from torchrun_operator.telemetry.logs import job_context
from torchrun_operator.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

_LIST_RETRY_SECONDS = 5.0


class Reconciles(Protocol):
    """Makes passes over jobs; see reconcile.reconciler."""

    async def reconcile(self, key: Key) -> Outcome:
        """Make one pass over a job."""
        ...


async def work(
    queue: WorkQueue[Key], reconciler: Reconciles, metrics: Metrics, liveness: Liveness, settings: Settings
) -> None:
    """Make passes until the queue is closed. A pass that fails is logged and counted; the worker continues."""
    while True:
        try:
            key = await queue.get()
        except QueueClosed:
            return
        with job_context(*key), liveness.working(f"reconcile {key[0]}/{key[1]}", settings.stuck_seconds):
            await _turn(queue, key, reconciler, metrics, settings)


async def _turn(queue: WorkQueue[Key], key: Key, reconciler: Reconciles, metrics: Metrics, settings: Settings) -> None:
    started, result = time.monotonic(), "error"
    try:
        outcome = await reconciler.reconcile(key)
    except ConflictError:
        result = "conflict"  # another client wrote the job; the watch will report it
        queue.done(key, after=settings.min_reconcile_interval)
    except ClusterError as error:
        metrics.error(error.reason)
        logger.warning("the pass failed; the next attempt is in %.1f s: %s", queue.failed(key), error)
    except Exception as error:
        metrics.error(type(error).__name__)
        delay = queue.failed(key)
        logger.exception("the pass failed; the next attempt is in %.1f s", delay)
    else:
        result = "ok"
        if outcome.gone:
            queue.forget(key)
        else:
            resync = settings.resync_seconds * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, guards nothing
            again = outcome.look_again_seconds
            queue.done(key, after=resync if again is None else min(resync, again), rest=outcome.rest_seconds)
    finally:
        metrics.reconciled(result, time.monotonic() - started)


async def resync(queue: WorkQueue[Key], cluster: Cluster, readiness: Readiness, settings: Settings) -> None:
    """List and wake all jobs at the start and every resync_seconds, in case a watch missed an event. Runs forever."""
    while True:
        try:
            for key in await cluster.list_jobs():
                queue.add(key)
        except ClusterError as error:
            logger.warning("cannot list the jobs: %s", error)
            await asyncio.sleep(_LIST_RETRY_SECONDS)
            continue
        readiness.reached("jobs listed")
        await asyncio.sleep(settings.resync_seconds)
