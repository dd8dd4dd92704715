"""The operator's client of the rendezvous hosts: one connection per job. It does not trust the answers."""

import asyncio
import hashlib
import hmac
import logging
import math
import random
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from torchrun_operator.allowance import Allowance
from torchrun_operator.core.facts.clocks import difference, in_our_time
from torchrun_operator.rendezvous.ears import Ears
from torchrun_operator.rendezvous.exchange import AnswerError, Connection
from torchrun_rendezvous.protocol import ProtocolError, RendezvousState, Target

POLL_SECONDS = 30.0
BACKOFF_SECONDS = (0.2, 5.0)
REQUESTS = Allowance(burst=20, seconds=0.5)
"""Requests to one host. A host that always has news costs two documents a second, and passes are rarer still."""
_BYTES_PER_REQUEST = 65536
"""A document costs another request for each part of this size."""
_DOCUMENT_BYTES = (65536, 512)
"""Maximum size of a document: this, and this for each node. It has up to six addresses of a node."""
_ADDRESSES = (64, 2)
"""Maximum number of addresses in each list of a document: this, and this for each node."""
_OK, _UNAUTHORIZED, _NOT_READY = 200, 401, 503
_COMPLAINT_SECONDS = 60.0
"""Minimum time between two warnings about one host."""

_log = logging.getLogger(__name__)


class RendezvousError(Exception):
    """The rendezvous host did not answer with a state document."""


class UnauthorizedError(RendezvousError):
    """The rendezvous host rejects the token: its pod was created with another key."""


class NotReadyError(RendezvousError):
    """The rendezvous host has started, and its store is not up yet."""


def token_for(key: bytes, job_uid: str) -> str:
    """Return the token of a job's rendezvous host. It derives from the operator's key and the job's uid."""
    return hmac.new(key, job_uid.encode(), hashlib.sha256).hexdigest()


def token_digest(token: str) -> str:
    """Return the digest with which the rendezvous host checks the token."""
    return hashlib.sha256(token.encode()).hexdigest()


class RendezvousLink:
    """The connection to one rendezvous host. A background task keeps it, sends the target and receives the state.

    Create it inside a running event loop. It calls `on_change` in that loop whenever `latest`, `connected` or
    `unauthorized` changes. `on_change` must not block.
    """

    def __init__(
        self,
        address: str,
        port: int,
        token: str,
        on_change: Callable[[], None] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.latest: RendezvousState | None = None
        self.connected = False
        self.unauthorized = False
        self._clock = clock
        self._added = timedelta(0)
        """What to add to times of the rendezvous host."""
        self.ears = Ears(asyncio.get_running_loop().time)
        self.nodes = 0
        """Number of node pods of the job. Larger jobs have larger documents."""
        self._name = f"{address}:{port}"
        headers = {"Authorization": f"Bearer {token}"}
        self._polls, self._pushes = (Connection(address, port, headers) for _ in range(2))
        self._allowance = replace(REQUESTS)
        self._complained = -math.inf
        self._on_change = on_change or (lambda: None)
        self._wanted: Target | None = None
        self._pushed: tuple[str, Target] | None = None
        self._push = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"rendezvous {self._name}")

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
            self._complain(error)
            self.ears.failed(alive=isinstance(error, (AnswerError, RendezvousError)))
            self._set(connected=False, unauthorized=isinstance(error, UnauthorizedError))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - nothing secret
            pause = min(last, pause * 2)

    def _complain(self, error: Exception) -> None:
        """Log why the conversation ended. A host that is gone is no news; wrong answers are, once a minute."""
        now = asyncio.get_running_loop().time()
        if not isinstance(error, (AnswerError, RendezvousError, OSError)):
            _log.error("rendezvous link of %s failed", self._name, exc_info=error)
        elif (
            isinstance(error, (AnswerError, RendezvousError))
            and not isinstance(error, NotReadyError)
            and now - self._complained >= _COMPLAINT_SECONDS
        ):
            self._complained = now
            _log.warning("the rendezvous host at %s gives a wrong answer: %s", self._name, error)
        else:
            _log.debug("rendezvous link of %s: %s", self._name, error)

    async def _converse(self) -> None:
        """Exchange documents until something fails."""
        self._pushed = None  # another process may serve the same instance, without its target
        try:
            # Every document is newer than version 0, so the host answers at once, which shows whether it has restarted.
            self._accept(await self._get(after=0, seconds=0.0))
            self._push.set()
            await self._both(self._poll_forever(), self._push_forever())
        finally:
            self._polls.close()
            self._pushes.close()

    async def _both(self, *forever: Coroutine[Any, Any, None]) -> None:
        # Not a TaskGroup: a failure in one leaves the task marked as cancelled. Up to Python 3.11.2, asyncio.timeout,
        # which limits each request, then raises CancelledError, which would end this link for good.
        tasks = [asyncio.create_task(one) for one in forever]
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
                state = await self._request(self._pushes, "PUT", "/v1/target", {}, target=wanted)
                self._pushes.close()  # the host closes idle connections, and the next target may be hours away
                self._pushed = (state.instance, wanted)
                self._accept(state)

    async def _get(self, after: int, seconds: float) -> RendezvousState:
        query = {"after": str(after), "timeout": str(seconds)}
        return await self._request(self._polls, "GET", "/v1/state", query, wait_seconds=seconds)

    async def _request(
        self,
        connection: Connection,
        method: str,
        path: str,
        query: Mapping[str, str],
        *,
        wait_seconds: float = 0.0,
        target: Target | None = None,
    ) -> RendezvousState:
        """Return the state in the answer. Raises RendezvousError, AnswerError and OSError."""
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(self._allowance.spend(clock()))
        first, each = _DOCUMENT_BYTES
        answer = await connection.request(
            method,
            path,
            query,
            most_bytes=first + each * self.nodes,
            wait_seconds=wait_seconds,
            document=None if target is None else target.document(),
        )
        self._allowance.spend(clock(), len(answer.body) // _BYTES_PER_REQUEST)
        if answer.status == _UNAUTHORIZED:
            raise UnauthorizedError("it rejects the token")
        if answer.status == _NOT_READY:
            raise NotReadyError("it is not ready")
        if answer.status != _OK:
            raise RendezvousError(f"status {answer.status}: {answer.body[:200]!r}")
        try:
            return _checked(RendezvousState.read(answer.body), self.nodes)
        except ProtocolError as error:
            raise RendezvousError(f"bad state document: {error}") from None

    def _accept(self, state: RendezvousState) -> None:
        known = self.latest
        same = known is not None and known.instance == state.instance
        self._added = difference(self._added if same else timedelta(0), state.time, self._clock())
        state = in_our_time(state, self._added)
        if known is not None and known.instance == state.instance and state.version < known.version:
            return  # the answers to a poll and a push arrived out of order
        if known is None or known.instance != state.instance:
            self._push.set()
        self.latest = state
        self.ears.answered(state)
        self._set(connected=True, unauthorized=False, changed=state != known)

    def _set(self, *, connected: bool, unauthorized: bool, changed: bool = False) -> None:
        changed = changed or (connected, unauthorized) != (self.connected, self.unauthorized)
        self.connected, self.unauthorized = connected, unauthorized
        if changed:
            self._on_change()


def _checked(state: RendezvousState, nodes: int) -> RendezvousState:
    """Return the state if it is one of a job of that many nodes. Raises RendezvousError."""
    first, each = _ADDRESSES
    lists = [state.members, state.waiting, state.silent or (), state.missing]
    lists += [state.target.leavers] if state.target is not None else []
    lists += [state.last_unrequested.addresses] if state.last_unrequested is not None else []
    longest = max(map(len, lists))
    if longest > first + each * nodes:
        raise RendezvousError(f"{longest} addresses in a list, and the job has {nodes} nodes")
    return state
