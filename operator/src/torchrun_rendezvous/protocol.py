"""The documents between operator, rendezvous host and workers: one type each, which both sides read and write.

Names are camelCase on the wire. The annotation of a field is its parser, so a new field is one line. A host may be
older or newer than its operator: a new field needs a default, and its readers must work without it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, NamedTuple, TypeVar

from torchrun_rendezvous.documents import MAX_INTEGER, Integer, Number, ProtocolError, Text, Wire, read, write

__all__ = [
    "EndRound",
    "Member",
    "Overdue",
    "Pace",
    "Progress",
    "ProtocolError",
    "RendezvousState",
    "RoundsEnded",
    "Target",
    "Unrequested",
]

T = TypeVar("T")
MAX_NODES = 1_048_576

Count = Annotated[int, Integer()]
Rounds = Annotated[int, Integer(0, 2**31)]
"""The operator adds these up over hosts, and sums of any documents must remain integers that Kubernetes can store."""
Positive = Annotated[int, Integer(1)]
Nodes = Annotated[int, Integer(0, MAX_NODES)]
Figure = Annotated[float, Number()]
Seconds = Annotated[float, Number(0, 1e12)]
Deadline = Annotated[float, Number(1, MAX_INTEGER)]
Address = Annotated[str, Text(255, r"[0-9A-Za-z._:%-]+", kind="an address")]


class _Document:
    def document(self) -> dict[str, Any]:
        """Return the record as a JSON-ready document."""
        written: dict[str, Any] = write(self)
        return written

    @classmethod
    def parse(cls: type[T], document: object) -> T:
        """Return the record of a document. Raises ProtocolError."""
        return read(cls, document)


class EndRound(NamedTuple):
    """A round that must end, and the host process that counts it."""

    instance: Annotated[str, Text(64)]
    round: Rounds

    def document(self) -> dict[str, Any]:
        """Return the record as a JSON-ready document."""
        written: dict[str, Any] = write(self)
        return written

    @classmethod
    def parse(cls, document: object) -> EndRound:
        """Return the record of a document. Raises ProtocolError."""
        return read(cls, document)


class Member(NamedTuple):
    """A member of the current round, and its group rank."""

    address: Address
    rank: Count

    def document(self) -> dict[str, Any]:
        """Return the record as a JSON-ready document."""
        written: dict[str, Any] = write(self)
        return written

    @classmethod
    def parse(cls, document: object) -> Member:
        """Return the record of a document. Raises ProtocolError."""
        return read(cls, document)


@dataclass(frozen=True)
class Target(_Document):
    """What the operator wants from a job's rendezvous.

    The next round has `size` nodes, or at least `minimum` once that many have waited `last_call_seconds` for more.
    """

    generation: Count
    """The host returns it unchanged, which shows the target that it has."""
    size: Nodes
    minimum: Annotated[int, Integer(1, MAX_NODES), Wire(name="min")]
    last_call_seconds: Annotated[float, Number(0, 86400)]
    leavers: tuple[Address, ...]
    """Addresses that must not be members; sorted, each once."""
    close: bool = False
    """End the rendezvous for good: agents exit as soon as they look for the next round, which they do at once."""
    end_round: EndRound | None = None
    """A round that must end although no member left it."""
    progress_deadline_seconds: Deadline | None = None
    """Maximum time of a round from one reported step to the next. None: no limit."""
    start_deadline_seconds: Deadline | None = None
    """Maximum time of a round until its second reported step. None: no limit."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "leavers", tuple(sorted(set(self.leavers))))


@dataclass(frozen=True)
class RoundsEnded(_Document):
    """How many complete rounds ended, by cause."""

    requested: Annotated[Rounds, Wire(required=True)] = 0
    unrequested: Annotated[Rounds, Wire(required=True)] = 0
    """The workers of a member failed."""


@dataclass(frozen=True)
class Unrequested(_Document):
    """The last round that ended without a request: the nodes that left it first, and when."""

    round: Rounds
    addresses: tuple[Address, ...]
    time: datetime


@dataclass(frozen=True)
class Progress(_Document):
    """The last report of a worker. The host adds the time, and does not check the values against others."""

    step: Count
    time: datetime
    world_size: Annotated[Positive | None, Wire(required=True, null=False)] = None
    total_steps: Count | None = None
    epoch: Count | None = None
    loss: Figure | None = None
    samples_per_second: Seconds | None = None
    snapshot_step: Count | None = None
    snapshot_time: datetime | None = None
    beat: Count | None = None
    """Changes while one long step makes progress."""
    slow_rank: Count | None = None
    """The rank that the others wait for at every step; None: none."""
    slow_node: Nodes | None = None
    """The group rank of its node."""
    slow_seconds: Seconds | None = None
    """How long the others wait for it in each step, which takes step_seconds."""
    step_seconds: Seconds | None = None


@dataclass(frozen=True)
class Overdue(_Document):
    """A round whose workers have reported no other step for longer than `seconds`."""

    round: Rounds
    step: Count | None
    """The last reported step. None: there was none."""
    starting: bool
    """The round has reported fewer than two steps."""
    seconds: Seconds
    since: datetime
    """When that step was reported, or the round began, by the host's clock."""


@dataclass(frozen=True)
class Pace(_Document):
    """The longest time between two reported steps, and from the beginning of a round to its second step.

    Both are rounded up to powers of two.
    """

    longest_pause_seconds: Seconds = 0.0
    longest_start_seconds: Seconds | None = None
    """None: this host has seen no round with two steps, so it is unknown whether the script reports steps."""
    overdue: Overdue | None = None


@dataclass(frozen=True)
class RendezvousState(_Document):
    """The state document of a host."""

    instance: Annotated[str, Text(64, r"[0-9a-f]+", kind="a hexadecimal number")]
    """Changes when the host restarts; everything else starts again with it."""
    version: Annotated[Count, Wire(required=True)] = 0
    time: datetime | None = None
    """The time of the answer by the clock of the host, which tells all its other times too."""
    round: Annotated[Rounds, Wire(required=True)] = 0
    """The current round, or the one that forms."""
    complete: Annotated[bool, Wire(required=True)] = False
    """The round runs, and no member has left it or must leave it."""
    closed: Annotated[bool, Wire(required=True)] = False
    finished: Count = 0
    """How many agents wait for the others because their workers are done."""
    members: Annotated[tuple[Member, ...], Wire(required=True)] = ()
    waiting: Annotated[tuple[Address, ...], Wire(required=True)] = ()
    """Wanted nodes that are not in the current round."""
    silent: tuple[Address, ...] | None = None
    """The silent nodes; None: the host does not report them."""
    missing: tuple[Address, ...] = ()
    """Members of an ended round that have not joined the next one within a minute."""
    unfinished: tuple[Address, ...] = ()
    """Members that joined again after others had finished: these never join another round."""
    target: Annotated[Target | None, Wire(required=True)] = None
    rounds_ended: Annotated[RoundsEnded, Wire(required=True)] = RoundsEnded()
    last_unrequested: Annotated[Unrequested | None, Wire(required=True)] = None
    completed_at: Annotated[datetime | None, Wire(required=True)] = None
    """When the newest complete round was completed."""
    progress: Annotated[Progress | None, Wire(required=True)] = None
    pace: Pace = Pace()
    world_size: Positive | None = None
    """The number of workers of the complete round, if its agents have told each other. They do where it may differ."""

    @classmethod
    def read(cls, body: bytes) -> RendezvousState:
        """Return the state in the answer of a host. Raises ProtocolError for anything else."""
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            raise ProtocolError("document: JSON is needed") from None
        return cls.parse(document)
