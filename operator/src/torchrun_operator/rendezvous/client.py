"""The operator's side of the rendezvous hosts: their documents, never trusted, and one connection per job."""

import asyncio
import hashlib
import hmac
import logging
import random
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import resources
from typing import Annotated, Self

import aiohttp
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.alias_generators import to_camel

from torchrun_operator import rendezvous

POLL_SECONDS = 30.0
CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 10.0
BACKOFF_SECONDS = (0.2, 5.0)
_DEAD_PEER = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 11_000}
"""A host whose machine goes without a word is missed within 11 s, by the kernel, though a poll waits for longer."""
MAX_DOCUMENT_BYTES = 16 << 20
MAX_NODES = 16_384

_log = logging.getLogger(__name__)

Address = Annotated[str, Field(min_length=1, max_length=255)]
Count = Annotated[int, Field(ge=0, le=2**53, strict=True)]
Figure = Annotated[float, Field(allow_inf_nan=False, strict=True)]


class RendezvousError(Exception):
    """The host answered with something else than a state document."""


class UnauthorizedError(RendezvousError):
    """The host does not take the token: it was started with another key."""


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class EndRound(_Document):
    """A round that has to end, in the host process that counts it."""

    instance: Annotated[str, Field(min_length=1, max_length=64)]
    round: Count


class Target(_Document):
    """What the operator wants of a job's rendezvous.

    `size` nodes, or at least `minimum` once that many have waited `last_call_seconds` for more; none of the addresses
    in `leavers`. `close` ends the rendezvous for good: its agents exit. `generation` is only echoed. `end_round` has
    made no progress. The host says when a round takes longer than `progress_deadline_seconds` from one reported step
    to the next, or than `start_deadline_seconds` until it has reported two.
    """

    generation: Count
    size: Annotated[int, Field(ge=0, le=1_048_576, strict=True)]
    minimum: Annotated[int, Field(ge=1, le=1_048_576, alias="min", strict=True)]
    last_call_seconds: Annotated[Figure, Field(ge=0, le=86400)]
    leavers: Annotated[tuple[Address, ...], Field(max_length=MAX_NODES)] = ()
    close: bool = False
    end_round: EndRound | None = None
    progress_deadline_seconds: Annotated[Figure, Field(ge=1)] | None = None
    start_deadline_seconds: Annotated[Figure, Field(ge=1)] | None = None

    @field_validator("leavers", mode="after")
    @classmethod
    def _sorted(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(value)))


class Member(_Document):
    """A node in the running round, and its group rank there."""

    address: Address
    rank: Count


class RoundsEnded(_Document):
    """Complete rounds that ended, by cause; unrequested: a member's workers failed."""

    requested: Count
    unrequested: Count


class Unrequested(_Document):
    """The last round that ended unasked, who left it first, and when."""

    round: Count
    addresses: Annotated[tuple[Address, ...], Field(max_length=MAX_NODES)]
    time: AwareDatetime


class Progress(_Document):
    """What a worker last said; none of it is checked against anything."""

    step: Count
    total_steps: Count | None = None
    epoch: Count | None = None
    loss: Figure | None = None
    samples_per_second: Figure | None = None
    world_size: Count
    snapshot_step: Count | None = None
    snapshot_time: AwareDatetime | None = None
    slow_rank: Count | None = None
    slow_node: Count | None = None
    slow_seconds: Figure | None = None
    step_seconds: Figure | None = None
    time: AwareDatetime


class Overdue(_Document):
    """A round that has reported no other step for longer than `seconds`, since `since` by the host's clock."""

    round: Count
    step: Count | None
    starting: bool
    seconds: Figure
    since: AwareDatetime


class Pace(_Document):
    """How long the training took at most between two reported steps, and from the beginning of a round to its second.

    The figures are rounded up to powers of two; no start: none has been seen by this host.
    """

    longest_pause_seconds: Annotated[Figure, Field(ge=0)] = 0.0
    longest_start_seconds: Annotated[Figure, Field(ge=0)] | None = None
    overdue: Overdue | None = None


class RendezvousState(_Document):
    """The state document of a host.

    `round` is the running one, or else the one that forms; `complete`: it runs and nobody has left or was asked to.
    `waiting` are nodes that are not in the running round and are not unwanted. `silent` are nodes that give no sign of
    life; a host of an older version does not say. `missing` are those of a round that had to end which are not back
    after a minute. `finished` counts agents whose workers are done. `instance` changes when the host restarts, and
    everything else begins anew with it.
    """

    instance: Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]
    version: Count
    round: Count
    complete: bool
    closed: bool
    finished: Count = 0
    members: Annotated[tuple[Member, ...], Field(max_length=MAX_NODES)]
    waiting: Annotated[tuple[Address, ...], Field(max_length=MAX_NODES)]
    silent: Annotated[tuple[Address, ...], Field(max_length=MAX_NODES)] | None = None
    missing: Annotated[tuple[Address, ...], Field(max_length=MAX_NODES)] = ()
    target: Target | None
    rounds_ended: RoundsEnded
    last_unrequested: Unrequested | None
    completed_at: AwareDatetime | None
    progress: Progress | None
    pace: Pace = Pace()

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read a document; raises RendezvousError for anything that is not one."""
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise RendezvousError(f"bad state document: {where}: {first['msg']}") from None


def token_for(key: bytes, job_uid: str) -> str:
    """Return the token of a job's rendezvous host, which only who knows the operator's key can make."""
    return hmac.new(key, job_uid.encode(), hashlib.sha256).hexdigest()


def token_digest(token: str) -> str:
    """Return what the host is given to check the token with."""
    return hashlib.sha256(token.encode()).hexdigest()


def host_source() -> str:
    """Return the program of the rendezvous pods."""
    return resources.files(rendezvous).joinpath("host.py").read_text(encoding="utf-8")


def open_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Return a socket for a connection to a host, as aiohttp's connectors take it."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _DEAD_PEER.items():
        if hasattr(socket, name):  # not everywhere where an operator is tried out
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


class RendezvousLink:
    """A connection to one host, kept by a background task: the wanted target goes there, its state comes here.

    To be made inside a running event loop. `on_change` is called, in that loop, whenever `latest`, `connected` or
    `unauthorized` has changed; it must not block.
    """

    def __init__(
        self, session: aiohttp.ClientSession, base_url: str, token: str, on_change: Callable[[], None] | None = None
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.latest: RendezvousState | None = None
        self.received_at: datetime | None = None
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
        """Have the host told of a target: now, or when it is back, and each time it restarts. Returns at once."""
        if target != self._wanted:
            self._wanted = target
            self._push.set()

    async def aclose(self) -> None:
        """End the connection; the host keeps the last target."""
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
        # Version 0 is before every document's: what is answered at once says whether the host has restarted.
        self._accept(await self._get(after=0, seconds=0.0))
        self._push.set()
        # Not a TaskGroup: one that fails leaves its task marked as being cancelled, and then, up to Python 3.11.2,
        # asyncio.timeout (aiohttp connects with it) raises CancelledError, which would end this link for good.
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
                document = wanted.model_dump(mode="json", by_alias=True)
                state = await self._request("PUT", "/v1/target", {}, ANSWER_SECONDS, document)
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
        """Return the state document that the host answers; raises RendezvousError, aiohttp's and OS errors."""
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
                raise UnauthorizedError("the host does not take the token")
            body = bytearray()
            async for chunk in response.content.iter_chunked(65536):
                body += chunk
                if len(body) > MAX_DOCUMENT_BYTES:
                    raise RendezvousError(f"a document above {MAX_DOCUMENT_BYTES} bytes")
            if response.status != 200:
                raise RendezvousError(f"status {response.status}: {bytes(body[:200])!r}")
            return RendezvousState.parse(bytes(body))

    def _accept(self, state: RendezvousState) -> None:
        known = self.latest
        if known is not None and known.instance == state.instance and state.version < known.version:
            return  # the answers of a poll and a push crossed
        if known is None or known.instance != state.instance:
            self._push.set()
        self.received_at = datetime.now(UTC)
        self.latest = state
        self._set(connected=True, unauthorized=False, changed=state != known)

    def _set(self, *, connected: bool, unauthorized: bool, changed: bool = False) -> None:
        changed = changed or (connected, unauthorized) != (self.connected, self.unauthorized)
        self.connected, self.unauthorized = connected, unauthorized
        if changed:
            self._on_change()
