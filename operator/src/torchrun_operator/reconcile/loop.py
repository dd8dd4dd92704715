"""Makes a pass for each turn of the queue. Every job gets a turn at the resync interval, even if nothing changes."""

import asyncio
import contextlib
import logging
import random
import time
from typing import Protocol

from torchrun_operator.cluster.port import Cluster, ClusterError, ConflictError, Key, NotSyncedError
from torchrun_operator.reconcile.queue import QueueClosed, WorkQueue
from torchrun_operator.reconcile.reconciler import Outcome
from torchrun_operator.settings import Settings
from torchrun_operator.telemetry.health import Liveness, Readiness
from torchrun_operator.telemetry.logs import job_context
from torchrun_operator.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

_LIST_RETRY_SECONDS = 5.0
_NAMESPACES = 8
"""So many namespaces may have all their passes under way before others wait: each pass takes memory."""


class Reconciles(Protocol):
    """Makes passes over jobs; see reconcile.reconciler."""

    async def reconcile(self, key: Key) -> Outcome:
        """Make one pass over a job."""
        ...


def namespace_of(key: Key) -> str:
    """Return the namespace of a job."""
    return key[0]


async def work(
    queue: WorkQueue[Key], reconciler: Reconciles, metrics: Metrics, liveness: Liveness, settings: Settings
) -> None:
    """Make passes until the queue is closed, then wait for those under way. A pass that fails is logged and counted."""
    free = asyncio.Semaphore(settings.workers * _NAMESPACES)

    async def turn(key: Key) -> None:
        try:
            with job_context(*key), liveness.working(f"reconcile {key[0]}/{key[1]}", settings.stuck_seconds):
                await _turn(queue, key, reconciler, metrics, settings)
        finally:
            free.release()

    async with asyncio.TaskGroup() as turns:
        with contextlib.suppress(QueueClosed):
            while True:
                await free.acquire()
                turns.create_task(turn(await queue.get()))


async def _turn(queue: WorkQueue[Key], key: Key, reconciler: Reconciles, metrics: Metrics, settings: Settings) -> None:
    started, result = time.monotonic(), "error"
    try:
        outcome = await _pass(reconciler, key, settings.stuck_seconds / 2)
    except NotSyncedError as error:
        result = "not synced"  # the watch will wake the job
        logger.debug("the pass waits: %s", error)
        queue.done(key, after=settings.resync_seconds)
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


async def _pass(reconciler: Reconciles, key: Key, seconds: float) -> Outcome:
    """Make a pass. Raises ClusterError if it takes longer than that, as with an API server that does not answer."""
    try:
        async with asyncio.timeout(seconds) as limit:
            return await reconciler.reconcile(key)
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise ClusterError(0, "PassTimeout", f"the pass has taken {seconds:g} s") from error


async def resync(
    queue: WorkQueue[Key], cluster: Cluster, namespace: str, readiness: Readiness, settings: Settings
) -> None:
    """List and wake the jobs of a namespace ("": of all) at the start and every resync_seconds. Runs forever.

    A watch may have missed an event. The operator is ready once the jobs of one namespace are listed.
    """
    failing = False
    while True:
        try:
            for key in await cluster.list_jobs(namespace):
                queue.add(key)
        except ClusterError as error:
            logger.log(logging.DEBUG if failing else logging.WARNING, "cannot list the jobs, retrying: %s", error)
            failing = True
            await asyncio.sleep(_LIST_RETRY_SECONDS)
            continue
        failing = False
        readiness.reached("jobs listed")
        await asyncio.sleep(settings.resync_seconds)
