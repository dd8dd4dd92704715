"""The operator's client of the rendezvous hosts: one connection per job. It does not trust the answers."""

import asyncio
import hashlib
import hmac
import logging
import random
import socket
from collections.abc import Callable, Mapping

import aiohttp

from torchrun_rendezvous.protocol import ProtocolError, RendezvousState, Target

POLL_SECONDS = 30.0
CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 10.0
BACKOFF_SECONDS = (0.2, 5.0)
_DEAD_PEER = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 11_000}
"""The kernel detects within 11 s that a rendezvous host is gone without closing the connection. A poll waits longer."""
MAX_DOCUMENT_BYTES = 16 << 20

_log = logging.getLogger(__name__)


class RendezvousError(Exception):
    """The rendezvous host did not answer with a state document."""


class UnauthorizedError(RendezvousError):
    """The rendezvous host rejects the token: its pod was created with another key."""


def token_for(key: bytes, job_uid: str) -> str:
    """Return the token of a job's rendezvous host. It derives from the operator's key and the job's uid."""
    return hmac.new(key, job_uid.encode(), hashlib.sha256).hexdigest()


def token_digest(token: str) -> str:
    """Return the digest with which the rendezvous host checks the token."""
    return hashlib.sha256(token.encode()).hexdigest()


def open_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Return a socket for a connection to a rendezvous host, for aiohttp's connectors."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _DEAD_PEER.items():
        if hasattr(socket, name):  # some development systems lack it
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


class RendezvousLink:
    """The connection to one rendezvous host. A background task keeps it, sends the target and receives the state.

    Create it inside a running event loop. It calls `on_change` in that loop whenever `latest`, `connected` or
    `unauthorized` changes. `on_change` must not block.
    """

    def __init__(
        self, session: aiohttp.ClientSession, base_url: str, token: str, on_change: Callable[[], None] | None = None
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.latest: RendezvousState | None = None
        self.connected = False
        self.unauthorized = False
        self._session = session
        self._headers = {"Authorization": f"Bearer {token}"}
        self._on_change = on_change or (lambda: None)
        self._wanted: Target | None = None
        self._pushed: tuple[str, Target] | None = None
        self._push = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"rendezvous {self.base_url}")

    def set_target(self, target: Target) -> None:
        """Send the target to the rendezvous host: once it is connected, and after each restart. Returns at once."""
        if target != self._wanted:
            self._wanted = target
            self._push.set()

    async def aclose(self) -> None:
        """Close the connection. The rendezvous host keeps the last target."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.connected = False

    async def _run(self) -> None:
        first, last = BACKOFF_SECONDS
        pause = first
        while True:
            try:
                await self._converse()
            except Exception as failure:
                error = failure
            if self.connected:
                pause = first
            if not isinstance(error, (aiohttp.ClientError, OSError, RendezvousError)):
                _log.error("rendezvous link of %s failed", self.base_url, exc_info=error)
            else:
                _log.debug("rendezvous link of %s: %s", self.base_url, error)
            self._set(connected=False, unauthorized=isinstance(error, UnauthorizedError))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - nothing secret
            pause = min(last, pause * 2)

    async def _converse(self) -> None:
        """Exchange documents until something fails."""
        # Every document is newer than version 0, so the host answers at once, which shows whether it has restarted.
        self._accept(await self._get(after=0, seconds=0.0))
        self._push.set()
        # Not a TaskGroup: a failure in one leaves the task marked as cancelled. Up to Python 3.11.2, asyncio.timeout,
        # which aiohttp uses to connect, then raises CancelledError, which would end this link for good.
        tasks = [asyncio.create_task(self._poll_forever()), asyncio.create_task(self._push_forever())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _poll_forever(self) -> None:
        while True:
            assert self.latest is not None
            self._accept(await self._get(after=self.latest.version, seconds=POLL_SECONDS))

    async def _push_forever(self) -> None:
        while True:
            await self._push.wait()
            self._push.clear()
            assert self.latest is not None
            wanted, instance = self._wanted, self.latest.instance
            if wanted is not None and self._pushed != (instance, wanted):
                state = await self._request("PUT", "/v1/target", {}, ANSWER_SECONDS, wanted.document())
                self._pushed = (state.instance, wanted)
                self._accept(state)

    async def _get(self, after: int, seconds: float) -> RendezvousState:
        query = {"after": str(after), "timeout": str(seconds)}
        return await self._request("GET", "/v1/state", query, seconds + ANSWER_SECONDS)

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        seconds: float,
        document: Mapping[str, object] | None = None,
    ) -> RendezvousState:
        """Return the state in the answer. Raises RendezvousError, aiohttp's and OS errors."""
        async with self._session.request(
            method,
            self.base_url + path,
            params=query,
            json=document,
            headers=self._headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS),
        ) as response:
            if response.status == 401:
                raise UnauthorizedError("the rendezvous host rejects the token")
            body = bytearray()
            async for chunk in response.content.iter_chunked(65536):
                body += chunk
                if len(body) > MAX_DOCUMENT_BYTES:
                    raise RendezvousError(f"a document above {MAX_DOCUMENT_BYTES} bytes")
            if response.status != 200:
                raise RendezvousError(f"status {response.status}: {bytes(body[:200])!r}")
            try:
                return RendezvousState.read(bytes(body))
            except ProtocolError as error:
                raise RendezvousError(f"bad state document: {error}") from None

    def _accept(self, state: RendezvousState) -> None:
        known = self.latest
        if known is not None and known.instance == state.instance and state.version < known.version:
            return  # the answers to a poll and a push arrived out of order
        if known is None or known.instance != state.instance:
            self._push.set()
        self.latest = state
        self._set(connected=True, unauthorized=False, changed=state != known)

    def _set(self, *, connected: bool, unauthorized: bool, changed: bool = False) -> None:
        changed = changed or (connected, unauthorized) != (self.connected, self.unauthorized)
        self.connected, self.unauthorized = connected, unauthorized
        if changed:
            self._on_change()
