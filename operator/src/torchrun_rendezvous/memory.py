"""What the host knows in addition to the state in the store: senses, memory and decision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torchrun_rendezvous.view import Node, View

HEARTBEAT_SECONDS = 2.0
"""The configured interval between heartbeats of agents."""

LogLine = dict[str, object]
"""One line of the log; "event" names what happened."""


class Senses(NamedTuple):
    """What the host observes in addition to the state in the store."""

    peers: frozenset[str] | None = None
    """Addresses that are connected to the store. None: not read this time, or not available."""
    unanswered: Mapping[str, float] | None = None
    """For how many seconds these addresses have acknowledged nothing; None as above."""
    published: bool = True
    """Rank 0 of the complete round has published its address."""
    away: bool = False
    """The operator has sent no request recently."""
    interval: float = HEARTBEAT_SECONDS
    """Seconds between an agent's heartbeats."""
    world: int | None = None
    """The number of workers of the complete round, as its agents have agreed."""


UNAWARE = Senses()


class LifeSigns(NamedTuple):
    """The signs that a node is alive."""

    beat: float
    """The last heartbeat, by the node's own clock."""
    heard: float
    """When that heartbeat was first seen, by Memory.clock; later for a node that may need longer."""
    connected: bool = False
    """The address was seen among the peers of the store."""
    disconnected_at: float | None = None
    """Since when it is no longer connected; seconds since the epoch."""
    beat_at: float = math.inf
    """The host's time at the heartbeat; seconds since the epoch."""
    reached: float | None = None
    """When the node's kernel last acknowledged something, by Memory.clock."""


@dataclass(frozen=True)
class Running:
    """A complete round: its members by rank, which of them are still in it, and why it ends."""

    round: int
    members: Mapping[Node, int]
    still: frozenset[Node]
    beats: Mapping[Node, float]
    """Heartbeats at completion: a member with a newer one has seen the round."""
    kicked: bool = False
    requested: bool = False
    first_left: tuple[str, ...] = ()
    first_left_at: float = 0.0
    disturbed_at: float = -math.inf
    repaired: bool = False
    unfinished: tuple[str, ...] = ()
    """Addresses of the members that joined again after others had finished."""
    world: int | None = None
    """The number of workers; None: unknown."""
    unpublished: float = 0.0
    """For how many seconds members have waited for rank 0's address, stalls of the host not counted."""
    unheard: float = 0.0
    """For how many of these seconds rank 0 has sent no heartbeat."""


@dataclass(frozen=True)
class Memory:
    """What the state in the store does not contain. Times are seconds since the epoch."""

    running: Running | None = None
    former: frozenset[str] = frozenset()
    """Addresses of the last complete round: they come before spares."""
    signs: Mapping[Node, LifeSigns] = field(default_factory=dict)
    returning: frozenset[Node] = frozenset()
    """Members of the round that this host has taken over: not all of them have found it yet."""
    clock: float = 0.0
    """Seconds in which the host was awake and heard from any node. It measures silence."""
    interval: float = HEARTBEAT_SECONDS
    looked_at: float = math.inf
    heard_at: float = -math.inf
    evicted: frozenset[Node] = frozenset()
    aside: Mapping[str, float] = field(default_factory=dict)
    """Addresses that are alive but not wanted in the round, and when they were last seen."""
    awaited: Mapping[str, float] = field(default_factory=dict)
    """Members of an ended round that are not back, and since when."""
    missing: tuple[str, ...] = ()
    """Those of them that are overdue."""
    enough_since: float | None = None
    growth_since: float | None = None
    forming_since: float | None = None
    formation_seconds: float | None = None
    completed_at: float | None = None
    rounds: int = 0
    rounds_alone: int = 0
    """Rounds completed while the operator was down."""
    requested: int = 0
    unrequested: int = 0
    reopened: int = 0
    evictions: Mapping[str, int] = field(default_factory=dict)
    """Number of evicted nodes, by reason."""
    last_unrequested: tuple[int, tuple[str, ...], float] | None = None
    """Round, addresses that left it first, and when."""


class Decision(NamedTuple):
    """The state to write, the memory, the log lines, and further actions. Each rule adds its part."""

    view: View
    memory: Memory
    lines: tuple[LogLine, ...] = ()
    repair: int | None = None
    """A round whose MASTER_ADDR no member is left to publish."""
    hurry: bool = False
    """Decide again at once: members of a fresh round can see a waiting node."""
    release: int | None = None
    """A round whose finished agents need not wait for the others."""

    def show(self, view: View) -> Decision:
        """Write another state."""
        return self._replace(view=view)

    def remember(self, **changes: Any) -> Decision:  # noqa: ANN401 - the fields of Memory
        """Change fields of the memory."""
        return self._replace(memory=replace(self.memory, **changes))

    def log(self, event: str, **details: object) -> Decision:
        """Add a line to the log."""
        return self._replace(lines=(*self.lines, {"event": event, **details}))
