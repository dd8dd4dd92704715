"""What this operator process hears from a job's rendezvous host and, through it, from the agents. Pure.

All times are seconds of one monotonic clock of this process. A new process has heard nothing yet: it must listen for a
while before the silence of a pod has a meaning.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torchrun_rendezvous.protocol import RendezvousState

SILENT_SECONDS = 20.0
"""Silence of this length has a meaning. The API server needs 40 s and more to report that a kubelet is silent, so this
delays nothing unless the operator has just started.
"""
LEAST_ATTEMPTS = 3
"""A rendezvous host is silent only after this many failed attempts to reach it: time in which this process stood still
is no silence of the rendezvous host.
"""
_NEXT_ATTEMPT_SECONDS = 2.0


@dataclass(frozen=True)
class Hearing:
    """How long the operator has listened, and what it has not heard meanwhile."""

    attempts: int = 0
    """Failed attempts to reach the rendezvous host since it last answered."""
    host_seconds: float = 0.0
    """Seconds since the rendezvous host last answered or, if it never did, since the first attempt."""
    connected_seconds: float | None = None
    """For how long it has answered. None: it does not answer."""
    agents: Mapping[str, float] = field(default_factory=dict)
    """Addresses whose agents were heard on this connection and no longer are, and for how many seconds."""

    def host_silent_in(self) -> float:
        """Return the seconds until the rendezvous host counts as silent if it does not answer; 0: it is silent."""
        if self.connected_seconds is not None:
            return math.inf
        wait = max(0.0, SILENT_SECONDS - self.host_seconds)
        return max(wait, _NEXT_ATTEMPT_SECONDS) if self.attempts < LEAST_ATTEMPTS else wait

    def agent_silent_in(self, address: str | None, state: RendezvousState) -> float:
        """Return the seconds until that agent counts as silent; 0: it is silent, infinite: it is heard."""
        if address in heard(state):
            return math.inf
        unheard = self.agents.get(address or "", self.connected_seconds or 0.0)
        return max(0.0, SILENT_SECONDS - unheard)


def heard(state: RendezvousState) -> frozenset[str]:
    """Return the addresses of the agents whose recent heartbeats the rendezvous host reports."""
    return frozenset({member.address for member in state.members} | {*state.waiting}) - frozenset(state.silent or ())
