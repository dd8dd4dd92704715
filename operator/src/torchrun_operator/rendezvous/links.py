"""One connection to each job's rendezvous host: what the reconciler reads from and tells them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import aiohttp

from torchrun_operator.api.names import PORT_HTTP
from torchrun_operator.cluster.port import Key
from torchrun_operator.core.membership import Target
from torchrun_operator.core.observed import Overdue, Pace, Progress, Rendezvous
from torchrun_operator.rendezvous import client
from torchrun_operator.telemetry.metrics import Metrics


def name_of(key: Key) -> str:
    """Name a job as metrics and people do."""
    return f"{key[0]}/{key[1]}"


class Links(Protocol):
    """What the reconciler needs of the rendezvous hosts. Nothing here waits for the network."""

    def ensure(self, key: Key, uid: str, address: str | None) -> None:
        """Be connected to the host at that address (of the job with that uid); None: be connected to none."""
        ...

    def state(self, key: Key) -> Rendezvous | None:
        """Return what the host last told, or None while it does not answer."""
        ...

    def tell(self, key: Key, target: Target) -> None:
        """Have the host told of this target, soon and again after it restarts."""
        ...

    def drop(self, key: Key) -> None:
        """Forget the job."""
        ...

    def token_digest(self, uid: str) -> str:
        """Return the hex SHA-256 of the token that the job's host must take."""
        ...


@dataclass
class _Link:
    uid: str
    address: str
    connection: client.RendezvousLink
    rounds: int | None = None
    """The newest complete round already counted."""


class RendezvousLinks:
    """Implements Links over HTTP, one background connection for each job."""

    def __init__(
        self, session: aiohttp.ClientSession, key: bytes, wake: Callable[[Key], None], metrics: Metrics
    ) -> None:
        """Make tokens from the operator's key; call `wake` whenever a host tells something new."""
        self._session = session
        self._key = key
        self._wake = wake
        self._metrics = metrics
        self._links: dict[Key, _Link] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def ensure(self, key: Key, uid: str, address: str | None) -> None:
        """See Links.ensure."""
        link = self._links.get(key)
        if link is not None and (link.uid, link.address) == (uid, address):
            self._metrics.rendezvous_link(name_of(key), link.connection.connected)
            return
        self.drop(key)
        if address is not None:
            host = f"[{address}]" if ":" in address else address
            token = client.token_for(self._key, uid)
            url = f"http://{host}:{PORT_HTTP}"
            connection = client.RendezvousLink(self._session, url, token, lambda: self._wake(key))
            self._links[key] = _Link(uid, address, connection)

    def state(self, key: Key) -> Rendezvous | None:
        """See Links.state."""
        link = self._links.get(key)
        if link is None or not link.connection.connected or link.connection.latest is None:
            return None
        state = rendezvous_of(link.connection.latest)
        if state.complete and link.rounds != state.round:
            link.rounds = state.round
            self._metrics.rounds_completed()
        return state

    def tell(self, key: Key, target: Target) -> None:
        """See Links.tell."""
        link = self._links.get(key)
        if link is not None:
            link.connection.set_target(
                client.Target(
                    generation=target.generation,
                    size=target.size,
                    minimum=target.minimum,
                    last_call_seconds=target.last_call_seconds,
                    leavers=target.leavers,
                    close=target.close,
                    end_round=client.EndRound(instance=target.end_round[0], round=target.end_round[1])
                    if target.end_round is not None
                    else None,
                    progress_deadline_seconds=target.progress_deadline_seconds,
                    start_deadline_seconds=target.start_deadline_seconds,
                )
            )

    def drop(self, key: Key) -> None:
        """See Links.drop."""
        link = self._links.pop(key, None)
        if link is not None:
            self._metrics.rendezvous_link(name_of(key), None)
            closing = asyncio.get_running_loop().create_task(link.connection.aclose())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def token_digest(self, uid: str) -> str:
        """See Links.token_digest."""
        return client.token_digest(client.token_for(self._key, uid))

    async def aclose(self) -> None:
        """End every connection; the hosts keep what they were told."""
        for key in list(self._links):
            self.drop(key)
        await asyncio.gather(*self._closing, return_exceptions=True)


def rendezvous_of(state: client.RendezvousState) -> Rendezvous:
    """Return what a state document says, as decisions see it."""
    last = state.last_unrequested
    return Rendezvous(
        instance=state.instance,
        round=state.round,
        complete=state.complete,
        closed=state.closed,
        finished=state.finished,
        members=tuple((member.address, member.rank) for member in state.members),
        waiting=state.waiting,
        silent=state.silent,
        missing=state.missing,
        leavers=state.target.leavers if state.target is not None else (),
        unrequested=state.rounds_ended.unrequested,
        last_unrequested_at=last.time if last is not None else None,
        last_unrequested_by=last.addresses if last is not None else (),
        completed_at=state.completed_at,
        progress=_progress(state.progress),
        pace=_pace(state.pace),
    )


def _progress(progress: client.Progress | None) -> Progress | None:
    return Progress(**progress.model_dump()) if progress is not None else None


def _pace(pace: client.Pace) -> Pace:
    overdue = Overdue(**pace.overdue.model_dump()) if pace.overdue is not None else None
    return Pace(pace.longest_pause_seconds, pace.longest_start_seconds, overdue)
