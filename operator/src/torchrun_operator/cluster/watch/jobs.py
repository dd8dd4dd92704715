"""The watch of jobs in one namespace or in all, by kopf. Only this module uses kopf.

kopf runs in its own thread and event loop. In the operator's loop it would handle the signals, and would cancel all
tasks when it stops, including passes.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import kopf
from yarl import URL

from torchrun_operator.api.names import GROUP, PLURAL, VERSION
from torchrun_operator.cluster.connections import Connections
from torchrun_operator.cluster.port import ClusterError, Key, Manifest
from torchrun_operator.cluster.watch.base import RENEW_SECONDS, SILENCE_SECONDS, Watch, WatchHungError
from torchrun_operator.cluster.watch.cache import JobCache

_RETRY_SECONDS = 1.0
_FORBIDDEN_RETRY_SECONDS = 15.0
_TICK_SECONDS = 1.0
_HUNG_TICKS = 15
"""kopf's event loop hangs if the operator's loop ticks this often without a tick of kopf's. A count, not a time: if the
whole process was frozen, kopf does not hang.
"""
_STOP_SECONDS = 10.0
_DISCOVERY_SECONDS = 10.0
_PAGE = 50
"""Jobs in one page of kopf's list. A job may have 1.5 MiB, because it may contain files."""

Login = Callable[..., kopf.ConnectionInfo | None]


def login(**arguments: Any) -> kopf.ConnectionInfo | None:  # noqa: ANN401 - kopf's own
    """Return the credentials of the pod's service account, or those of the kubeconfig."""
    return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)


class JobWatch(Watch):
    """Updates the cache of jobs."""

    def __init__(self, namespace: str, cache: JobCache, wake: Callable[[Key], None], login: Login = login) -> None:
        """Calls `wake` for each job that changes, after the update of the cache."""
        super().__init__("jobs", namespace)
        self._cache = cache
        self._wake = wake
        self._login = login
        self._missed = 0
        """Ticks of this event loop since the last tick of kopf's."""
        self._asked = False
        """kopf has requested jobs in this run."""

    async def run(self) -> None:
        """Run kopf until cancelled. Raises the error that ended kopf, or WatchHungError if its thread hangs."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        self._missed, self._asked = 0, False
        thread = _KopfThread(self, self._login)
        thread.start()
        try:
            while not thread.ended.done():
                await asyncio.wait([thread.ended], timeout=_TICK_SECONDS)
                if not thread.ended.done():
                    self._check(loop.time(), started)
            thread.ended.result()
        finally:
            await thread.stop()

    def _check(self, now: float, started: float) -> None:
        self._missed += 1
        if self._missed > _HUNG_TICKS:
            raise WatchHungError(f"{self.name}: the thread has not responded for {_HUNG_TICKS * _TICK_SECONDS:.0f} s")
        # kopf lists the resources only once, and waits forever if it does not find its own.
        if not self._asked and not self.failing and now - max(started, self.last_heartbeat) > _DISCOVERY_SECONDS:
            raise ClusterError(404, "NotFound", f"the API server does not know {PLURAL}: is the CRD installed?")

    def tick(self) -> None:
        """Record that kopf's event loop runs."""
        self._missed = 0

    def changed(self, key: Key, job: Manifest | None) -> None:
        """Store the newest version of a job (None: it was deleted), and wake it."""
        self._cache.update(key, job)
        self._wake(key)

    def answered(self, url: URL, status: int, reason: str) -> None:
        """Record the answer to a request of kopf. Status 0: no answer."""
        self._asked = self._asked or url.path.endswith(f"/{PLURAL}")
        if status >= 400 or status == 0:
            self.failed(ClusterError(status, reason, f"cannot list {PLURAL} in {self.namespace or 'all namespaces'}"))
        elif "watch" in url.query:
            self.listed()  # the request that follows a list
        else:
            self.beat()


class _KopfThread:
    """One run of kopf. `_main` and what it calls run in kopf's thread, all else in the event loop of the watch."""

    def __init__(self, watch: JobWatch, login: Login) -> None:
        self._watch = watch
        self._login = login
        self._home = asyncio.get_running_loop()
        self._loop = asyncio.new_event_loop()
        self._operation: asyncio.Task[None] | None = None
        self._stopped = False
        self.ended: asyncio.Future[None] = self._home.create_future()
        self._session: aiohttp.ClientSession | None = None
        self._connections = Connections()
        # A daemon thread, so that the process can end if the thread hangs.
        self._thread = threading.Thread(target=self._main, name=watch.name, daemon=True)

    def start(self) -> None:
        """Start kopf."""
        self._thread.start()

    async def stop(self) -> None:
        """Stop kopf and wait for it. Raises WatchHungError if it does not stop."""
        with contextlib.suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._stop)
        await asyncio.wait([self.ended], timeout=_STOP_SECONDS)
        if not self.ended.done():
            raise WatchHungError(f"{self._watch.name}: the thread has not stopped within {_STOP_SECONDS:.0f} s")
        self._thread.join()  # it ended with its last statement

    def _stop(self) -> None:
        """Cancel kopf, within its loop.

        kopf's stop flag does not work here. If kopf ends by itself, it waits 5 s for its own task that awaits the flag.
        If the flag is a threading.Event, it waits forever, because its executor cannot end that wait.
        """
        self._stopped = True
        if self._operation is not None:
            self._operation.cancel()

    def _main(self) -> None:
        error: BaseException | None = None
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._operate())
        except BaseException as caught:  # the other thread raises it
            error = caught
        self._tell(self._end, error)

    def _end(self, error: BaseException | None) -> None:
        if isinstance(error, Exception):
            self.ended.set_exception(error)
            self.ended.exception()  # marks the exception as retrieved, so that asyncio does not log it
        else:
            self.ended.set_result(None)

    async def _operate(self) -> None:
        self._operation = asyncio.current_task()
        if self._stopped:
            return
        ticking = asyncio.create_task(self._tick())
        try:
            await kopf.operator(
                registry=self._registry(),
                settings=_settings(_Delays(self._watch)),
                standalone=True,
                clusterwide=not self._watch.namespace,
                namespaces=[self._watch.namespace] if self._watch.namespace else (),
            )
        finally:
            ticking.cancel()
            if self._session is not None:
                await self._session.close()
            await self._connections.aclose()

    async def _tick(self) -> None:
        while True:
            self._tell(self._watch.tick)
            await asyncio.sleep(_TICK_SECONDS)

    def _tell(self, call: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the other loop is closed: the process ends
            self._home.call_soon_threadsafe(call, *arguments)

    def _registry(self) -> kopf.OperatorRegistry:
        """Return handlers that forward each event of a job.

        Only `on.event`: it never patches the object and adds no finalizer, so a job can be deleted while the operator
        is down. It has no retries, and the handler cannot fail.
        """
        handlers = kopf.OperatorRegistry()

        @kopf.on.login(registry=handlers, errors=kopf.ErrorsMode.PERMANENT)
        async def login(**arguments: Any) -> kopf.AiohttpSession | None:  # noqa: ANN401 - kopf's own
            if self._session is not None:
                await asyncio.sleep(_RETRY_SECONDS)  # kopf logs in again as soon as its credentials are rejected
            info = self._login(**arguments)
            if info is None:
                return None
            self._session = self._open(info)
            return kopf.AiohttpSession(server=info.server, expiration=info.expiration, aiohttp_session=self._session)

        @kopf.on.event(GROUP, VERSION, PLURAL, registry=handlers)
        async def changed(*, namespace: str | None, name: str, event: kopf.RawEvent, **_: Any) -> None:  # noqa: ANN401
            job = None if event["type"] == "DELETED" else event["object"]
            self._tell(self._watch.changed, (namespace or "", name), job)

        return handlers

    def _open(self, info: kopf.ConnectionInfo) -> aiohttp.ClientSession:
        """Return a session like kopf's own that also reports each answer. kopf closes it at the next login."""
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._request_ended)
        trace.on_request_exception.append(self._request_failed)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context(), socket_factory=self._connections.create),
            headers=info.as_http_headers(),
            proxy=info.proxy_url,
            trace_configs=[trace],
        )

    async def _request_ended(
        self, _session: aiohttp.ClientSession, _: SimpleNamespace, end: aiohttp.TraceRequestEndParams
    ) -> None:
        self._tell(self._watch.answered, end.url, end.response.status, end.response.reason or "Error")

    async def _request_failed(
        self, _session: aiohttp.ClientSession, _: SimpleNamespace, failed: aiohttp.TraceRequestExceptionParams
    ) -> None:
        # kopf also cancels its own requests, when a stream is silent for too long.
        if not self._stopped:
            self._tell(self._watch.answered, failed.url, 0, type(failed.exception).__name__)


class _Delays:
    """Delays between kopf's attempts at one request, without end. If they end, kopf's watch ends for good.

    It has no length, because kopf would limit the number of attempts to it.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __iter__(self) -> Iterator[float]:
        while True:
            yield _RETRY_SECONDS if self._watch.forbidden is None else _FORBIDDEN_RETRY_SECONDS


def _settings(delays: _Delays) -> kopf.OperatorSettings:
    """Return settings with which kopf only watches."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.process.ultimate_exiting_timeout = None  # it would kill the whole process
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = delays
    settings.watching.chunk_size = _PAGE
    settings.watching.server_timeout = RENEW_SECONDS
    settings.watching.inactivity_timeout = SILENCE_SECONDS
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    # kopf logs each login, and warns that it does not handle signals, because it runs in a thread.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
    # kopf logs each attempt at a request. The watch logs the first of several in a row.
    logging.getLogger("kopf._cogs.clients.watching").setLevel(logging.CRITICAL)
    return settings
