"""Health for Kubernetes: whether anything is stuck, what is still awaited, and the metrics, over HTTP."""

import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from torchrun_operator.runtime.metrics import Metrics

_logger = logging.getLogger(__name__)
_MOST_NAMED = 20


@dataclass
class _Deadline:
    name: str
    within_seconds: float
    last: float


class Liveness:
    """What must go on happening. Nothing here waits or raises, so it can be called from anywhere in the event loop.

    An event loop that is itself stuck cannot answer at all, which fails the probe as well.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heartbeats: dict[str, _Deadline] = {}
        self._working: dict[int, _Deadline] = {}
        self._failed: dict[str, str] = {}
        self._turns = itertools.count()

    def expect(self, name: str, within_seconds: float) -> None:
        """From now on `beat(name)` must come at least this often."""
        self._heartbeats[name] = _Deadline(name, within_seconds, self._clock())

    def beat(self, name: str) -> None:
        """Note a sign of life; one that nobody expects is ignored."""
        if (heartbeat := self._heartbeats.get(name)) is not None:
            heartbeat.last = self._clock()

    def forget(self, name: str) -> None:
        """Expect this heartbeat no longer."""
        self._heartbeats.pop(name, None)

    def fail(self, name: str, reason: str) -> None:
        """Report something as dead for good, such as a background task that ended: only a restart helps."""
        self._failed[name] = reason

    @contextmanager
    def working(self, name: str, within_seconds: float) -> Iterator[None]:
        """Expect the work inside to end in this time; any number of pieces of work may have the same name."""
        turn = next(self._turns)
        self._working[turn] = _Deadline(name, within_seconds, self._clock())
        try:
            yield
        finally:
            del self._working[turn]

    def stuck(self) -> list[str]:
        """Return what is wrong, a line for each; empty if all is well."""
        now = self._clock()
        lines = [f"{name}: {reason}" for name, reason in self._failed.items()]
        lines += [
            f"{beat.name}: no sign of life for {now - beat.last:.0f} s, expected within {beat.within_seconds:g} s"
            for beat in self._heartbeats.values()
            if now - beat.last > beat.within_seconds
        ]
        lines += [
            f"{work.name}: at work for {now - work.last:.0f} s, expected to take {work.within_seconds:g} s at most"
            for work in self._working.values()
            if now - work.last > work.within_seconds
        ]
        return lines


class Readiness:
    """What the operator still waits for before it is of use; ready when nothing is left."""

    def __init__(self, awaited: Iterable[str] = ()) -> None:
        self._awaited = dict.fromkeys(awaited)

    @property
    def awaited(self) -> tuple[str, ...]:
        """The names still awaited, in the order they were given."""
        return tuple(self._awaited)

    def wait_for(self, name: str) -> None:
        """Be unready until `reached(name)`."""
        self._awaited[name] = None

    def reached(self, name: str) -> None:
        """Strike a name off; one that is not awaited is ignored."""
        self._awaited.pop(name, None)


def health_app(liveness: Liveness, readiness: Readiness, metrics: Metrics) -> web.Application:
    """Return the application that serves /healthz, /readyz and /metrics."""

    async def healthz(_: web.Request) -> web.Response:
        return _verdict(liveness.stuck())

    async def readyz(_: web.Request) -> web.Response:
        return _verdict([f"{name}: still awaited" for name in readiness.awaited])

    async def metrics_text(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application(middlewares=[_always_answer])
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics_text)])
    return app


@asynccontextmanager
async def serving(app: web.Application, host: str | None, port: int) -> AsyncIterator[int]:
    """Serve `app` inside the block and give the port; OSError if it is taken.

    On every interface if `host` is None; port 0, a free one, is then another one for IPv4 than for IPv6.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@web.middleware
async def _always_answer(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException:
        raise
    except Exception as error:
        _logger.exception("cannot answer %s", request.path)
        return web.Response(status=500, text=f"{type(error).__name__}\n")


def _verdict(lines: list[str]) -> web.Response:
    if not lines:
        return web.Response(text="ok\n")
    shown = lines[:_MOST_NAMED]
    if len(lines) > len(shown):
        shown.append(f"... and {len(lines) - len(shown)} more")
    return web.Response(status=503, text="\n".join(shown) + "\n")
