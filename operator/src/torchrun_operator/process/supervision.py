"""Supervision: if a part ends for good, the operator ends."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from torchrun_operator.cluster.port import ClusterError, Key
from torchrun_operator.cluster.watch.base import HEARTBEAT_SECONDS, Watch, WatchHungError
from torchrun_operator.reconcile.queue import WorkQueue
from torchrun_operator.telemetry.health import Liveness

logger = logging.getLogger(__name__)

Task = asyncio.Task[None]

_STOP_SECONDS = 10.0
_TICK_SECONDS = 1.0
_LOOP_STALL_SECONDS = 30.0
_FIRST_PAUSE_SECONDS = 1.0
_MOST_PAUSE_SECONDS = 30.0
_STABLE_SECONDS = 60.0
"""A watch that ran for this long has recovered, and the next pause is short again."""
_STARTS = 5
"""The operator gives up on a watch without a heartbeat in this many starts."""
_CANCEL_SECONDS = 15.0


async def beat(liveness: Liveness) -> None:
    """Give the heartbeat of the event loop. A blocked loop answers no probe; in a busy one, the heartbeat is late."""
    liveness.expect("event loop", _LOOP_STALL_SECONDS)
    while True:
        liveness.beat("event loop")
        await asyncio.sleep(_TICK_SECONDS)


async def keep(watch: Watch) -> None:
    """Run a watch forever. Start it again when it ends or gives no heartbeat.

    Raises WatchHungError if restarts do not help.
    """
    loop = asyncio.get_running_loop()
    pause, fruitless = _FIRST_PAUSE_SECONDS, 0
    while True:
        started = loop.time()
        reason = await _run_once(watch)
        fruitless = 0 if watch.last_heartbeat >= started else fruitless + 1
        if fruitless >= _STARTS:
            raise WatchHungError(f"{watch.name}: no heartbeat in {_STARTS} starts; the last: {reason}")
        if loop.time() - started > _STABLE_SECONDS:
            pause = _FIRST_PAUSE_SECONDS
        logger.warning("%s: %s; starting it again in %.0f s", watch.name, reason, pause)
        await asyncio.sleep(pause)
        pause = min(_MOST_PAUSE_SECONDS, 2 * pause)


async def _run_once(watch: Watch) -> str:
    """Run the watch until it ends or gives no heartbeat. Return the reason. Raises WatchHungError."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    run = asyncio.create_task(watch.run(), name=watch.name)
    try:
        while not run.done():
            await asyncio.wait([run], timeout=_TICK_SECONDS)
            silent = loop.time() - max(started, watch.last_heartbeat)
            if silent > HEARTBEAT_SECONDS and not run.done():
                await _cancel(run)
                return f"no heartbeat for {silent:.0f} s"
        error = _error_of(run)
        if isinstance(error, WatchHungError):
            raise error
        if isinstance(error, ClusterError):
            return f"it has ended: {error}"
        if error is not None:
            logger.error("%s has failed", watch.name, exc_info=error)
        return "it has ended" if error is None else f"it has failed: {error!r}"
    except asyncio.CancelledError:
        run.cancel()
        await asyncio.wait([run], timeout=_CANCEL_SECONDS)
        raise
    finally:
        watch.ended()


async def _cancel(run: Task) -> None:
    run.cancel()
    await asyncio.wait([run], timeout=_CANCEL_SECONDS)
    if not run.done():
        raise WatchHungError(f"{run.get_name()}: it has not stopped within {_CANCEL_SECONDS:.0f} s")
    if isinstance(error := _error_of(run), WatchHungError):
        raise error


def _error_of(task: asyncio.Task[Any]) -> BaseException | None:
    return None if task.cancelled() else task.exception()


async def supervise(stop: asyncio.Event, queue: WorkQueue[Key], workers: Sequence[Task], others: Sequence[Task]) -> int:
    """Wait for `stop` or for the end of a part. Then let the running passes end. If it is cancelled, end them at once.

    Return the exit status: 0, or 1 if a part has ended by itself.
    """
    stopping = asyncio.create_task(stop.wait(), name="signal")
    parts = [stopping, *workers, *others]
    try:
        done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        failed = [task for task in done if task is not stopping]
        for task in failed:
            logger.error("%s has ended: the operator stops", task.get_name(), exc_info=_error_of(task))
        logger.info("stopping: running passes have %.0f s to end", _STOP_SECONDS)
        queue.close()
        await asyncio.wait(workers, timeout=_STOP_SECONDS)
        return 1 if failed else 0
    finally:
        for task in parts:
            task.cancel()
        await asyncio.wait(parts, timeout=_STOP_SECONDS)
