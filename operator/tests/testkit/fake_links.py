"""The connections to the rendezvous hosts of a small world."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from torchrun_operator.cluster.port import Key
from torchrun_operator.core.facts.clocks import difference, in_our_time
from torchrun_operator.core.facts.hearing import Hearing
from torchrun_operator.rendezvous.ears import Ears
from torchrun_rendezvous.protocol import RendezvousState, Target


def digest_of(uid: str) -> str:
    """Return the digest of the token for the host of the job with that uid."""
    return hashlib.sha256(uid.encode()).hexdigest()


@dataclass
class Host:
    """The rendezvous host in one rendezvous pod."""

    instance: str
    state: RendezvousState
    target: Target | None = None


class FakeLinks:
    """Implements Links. It reaches the hosts of the world at once, or not at all."""

    def __init__(self, hosts: dict[str, Host], clock: Callable[[], float]) -> None:
        """``hosts`` by address; ``clock`` tells monotonic seconds."""
        self.hosts = hosts
        self.connected: dict[Key, tuple[str, str]] = {}
        self.deaf = False
        """No host is reached, as when the operator has just started or its network is cut."""
        self.skew = timedelta(0)
        """What the clocks of the hosts show, less the right time."""
        self._clock = clock
        self._ears: dict[Key, Ears] = {}

    def ensure(self, key: Key, uid: str, address: str | None, nodes: int) -> None:
        """See Links.ensure."""
        if self.connected.get(key) == (uid, address):
            return
        self.drop(key)
        if address is not None:
            self.connected[key] = (uid, address)
            self._ears[key] = Ears(self._clock)

    def state(self, key: Key) -> RendezvousState | None:
        """See Links.state."""
        host = self._host(key)
        if host is None:
            return None
        now = datetime.fromtimestamp(self._clock(), UTC)
        return in_our_time(host.state, difference(timedelta(0), now + self.skew, now))

    def hearing(self, key: Key) -> Hearing:
        """See Links.hearing. Every pass is an answer, or an attempt that fails."""
        if key not in self._ears:
            return Hearing()
        state = self.state(key)
        if state is not None:
            self._ears[key].answered(state)
        else:
            self._ears[key].failed(alive=False)
        return self._ears[key].hearing()

    def tell(self, key: Key, target: Target) -> None:
        """See Links.tell."""
        host = self._host(key)
        if host is not None:
            host.target = target

    def drop(self, key: Key) -> None:
        """See Links.drop."""
        self.connected.pop(key, None)
        self._ears.pop(key, None)

    def token_digest(self, uid: str) -> str:
        """See Links.token_digest."""
        return digest_of(uid)

    def _host(self, key: Key) -> Host | None:
        reached = key in self.connected and not self.deaf
        return self.hosts.get(self.connected[key][1]) if reached else None
