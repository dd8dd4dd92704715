"""The connections to the jobs' rendezvous hosts: the reconciler reads states and sends targets through them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from torchrun_operator.api.names import PORT_HTTP
from torchrun_operator.cluster.port import Key
from torchrun_operator.core.facts.hearing import Hearing
from torchrun_operator.rendezvous import client
from torchrun_operator.telemetry.metrics import Metrics
from torchrun_rendezvous.protocol import RendezvousState, Target


def name_of(key: Key) -> str:
    """Return the name of a job as metrics and people use it."""
    return f"{key[0]}/{key[1]}"


class Links(Protocol):
    """The interface of the rendezvous hosts that the reconciler needs. No method waits for the network."""

    def ensure(self, key: Key, uid: str, address: str | None, nodes: int) -> None:
        """Connect to the rendezvous host at that address, of the job with that uid. None: close the connection.

        The host may send documents as large as that number of nodes needs.
        """
        ...

    def state(self, key: Key) -> RendezvousState | None:
        """Return the last state of the rendezvous host, or None while it does not answer."""
        ...

    def hearing(self, key: Key) -> Hearing:
        """Return how long this process has listened to the rendezvous host, and what it has not heard."""
        ...

    def tell(self, key: Key, target: Target) -> None:
        """Send the target to the rendezvous host, now and after each restart."""
        ...

    def drop(self, key: Key) -> None:
        """Forget the job."""
        ...

    def token_digest(self, uid: str) -> str:
        """Return the hex SHA-256 of the token that the job's host must accept."""
        ...


@dataclass
class _Link:
    uid: str
    address: str
    connection: client.RendezvousLink
    rounds: int | None = None
    """The newest complete round that is counted."""


class RendezvousLinks:
    """Implements Links over HTTP, one background connection for each job."""

    def __init__(
        self, key: bytes, wake: Callable[[Key], None], metrics: Metrics, clock: Callable[[], datetime]
    ) -> None:
        """`key` is the operator's key for tokens. Calls `wake` whenever the state of a rendezvous host changes.

        Clock tells the time in UTC: states have times of that clock.
        """
        self._clock = clock
        self._key = key
        self._wake = wake
        self._metrics = metrics
        self._links: dict[Key, _Link] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def ensure(self, key: Key, uid: str, address: str | None, nodes: int) -> None:
        """See Links.ensure."""
        link = self._links.get(key)
        if link is not None and (link.uid, link.address) == (uid, address):
            link.connection.nodes = nodes
            self._metrics.rendezvous_link(name_of(key), link.connection.connected)
            return
        self.drop(key)
        if address is not None:
            token = client.token_for(self._key, uid)
            connection = client.RendezvousLink(address, PORT_HTTP, token, lambda: self._wake(key), self._clock)
            connection.nodes = nodes
            self._links[key] = _Link(uid, address, connection)

    def state(self, key: Key) -> RendezvousState | None:
        """See Links.state."""
        link = self._links.get(key)
        if link is None or not link.connection.connected or link.connection.latest is None:
            return None
        state = link.connection.latest
        if state.complete and link.rounds != state.round:
            link.rounds = state.round
            self._metrics.rounds_completed()
        return state

    def hearing(self, key: Key) -> Hearing:
        """See Links.hearing."""
        link = self._links.get(key)
        return link.connection.ears.hearing() if link is not None else Hearing()

    def tell(self, key: Key, target: Target) -> None:
        """See Links.tell."""
        link = self._links.get(key)
        if link is not None:
            link.connection.set_target(target)

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
        """Close every connection. The rendezvous hosts keep their targets."""
        for key in list(self._links):
            self.drop(key)
        await asyncio.gather(*self._closing, return_exceptions=True)
