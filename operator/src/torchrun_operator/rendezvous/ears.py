"""Keeps what this process has heard from one rendezvous host, for decisions about silent Kubernetes nodes."""

from collections.abc import Callable

from torchrun_operator.core.facts.hearing import SILENT_SECONDS, Hearing, heard
from torchrun_rendezvous.protocol import RendezvousState


class Ears:
    """One connection's. A new process, or a new connection, has heard nothing yet."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Clock tells monotonic time in seconds."""
        self._clock = clock
        self._attempts = 0
        self._since = clock()
        """When the rendezvous host last answered, or the first attempt began."""
        self._connected_at: float | None = None
        self._heard: frozenset[str] = frozenset()
        self._gone: dict[str, float] = {}
        """Agents that were heard on this connection, and when they last were."""

    def answered(self, state: RendezvousState) -> None:
        """Record a state document. Until the next one, or the end of the connection, it is up to date."""
        now = self._clock()
        self._attempts = 0
        if self._connected_at is None:
            self._connected_at, self._heard, self._gone = now, frozenset(), {}
        hears = heard(state)
        gone = {**self._gone, **dict.fromkeys(self._heard, now)}
        # A longer silence needs no record: it is as long as the connection.
        self._gone = {a: at for a, at in gone.items() if a not in hears and now - at < SILENT_SECONDS}
        self._heard = hears

    def failed(self, *, alive: bool) -> None:
        """Record that the connection or an attempt failed. ``alive``: something answered, but no state document."""
        connected = self._connected_at is not None
        self._connected_at = None
        self._attempts = 0 if alive else self._attempts + 1
        if connected or alive:
            self._since = self._clock()

    def hearing(self) -> Hearing:
        """Return what is known now."""
        now = self._clock()
        if self._connected_at is None:
            return Hearing(self._attempts, now - self._since)
        agents = {address: now - at for address, at in self._gone.items()}
        return Hearing(connected_seconds=now - self._connected_at, agents=agents)
