"""The operator's HTTP endpoints: /healthz, /readyz and /metrics."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from torchrun_operator.telemetry.health import Liveness, Readiness
from torchrun_operator.telemetry.metrics import Metrics

_logger = logging.getLogger(__name__)
_MOST_NAMED = 20


def health_app(liveness: Liveness, readiness: Readiness, metrics: Metrics) -> web.Application:
    """Return the application that serves /healthz, /readyz and /metrics."""

    async def healthz(_: web.Request) -> web.Response:
        return _verdict(liveness.stuck())

    async def readyz(_: web.Request) -> web.Response:
        return _verdict([f"{name}: pending" for name in readiness.awaited], readiness.notes())

    async def metrics_text(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application(middlewares=[_always_answer])
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics_text)])
    return app


@asynccontextmanager
async def serving(app: web.Application, host: str | None, port: int) -> AsyncIterator[int]:
    """Serve `app` inside the block and yield the port. Raises OSError if the port is in use.

    `host` None: all interfaces. Port 0: any free port, which differs between IPv4 and IPv6.
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


def _verdict(wrong: list[str], notes: Sequence[str] = ()) -> web.Response:
    """Answer 503 if there are problems. Notes appear in both cases."""
    lines = [*(_first(wrong) or ["ok"]), *_first(notes)]
    return web.Response(status=503 if wrong else 200, text="\n".join(lines) + "\n")


def _first(lines: Sequence[str]) -> list[str]:
    shown = list(lines[:_MOST_NAMED])
    if len(lines) > len(shown):
        shown.append(f"... and {len(lines) - len(shown)} more")
    return shown
