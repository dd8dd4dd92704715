"""What a host writes beside torchrun's state, so that the next host takes over from it.

The store ends with the host. Agents that outlive it (torchrun_launcher.lasting) bring its last state to the next one,
and with it this note: who trains in the running round, which the state does not say once the next round is open, and
what has been counted so far. torch's class keeps attributes that it does not know.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from dataclasses import dataclass, replace
from typing import Annotated, Any, NamedTuple

from torchrun_rendezvous.documents import Integer, Number, ProtocolError, Text, read, write
from torchrun_rendezvous.ending import started
from torchrun_rendezvous.memory import Memory, Running
from torchrun_rendezvous.protocol import MAX_NODES, Address, Rounds
from torchrun_rendezvous.view import KICK, Node, View

ATTRIBUTE = "torchrun_operator"
"""Its name in torchrun's state."""
MAX_BYTES = 4 << 20
VERSIONS = 1 << 24
"""The next host counts its documents from here on. No host has so many between two notes."""

Process = Annotated[int, Integer()]
Seconds = Annotated[float, Number()]


class Trained(NamedTuple):
    """A member of the running round."""

    address: Address
    pid: Process
    local_id: Process
    rank: Annotated[int, Integer(0, MAX_NODES)]


@dataclass(frozen=True)
class Ran:
    """The running round."""

    round: Rounds
    members: tuple[Trained, ...]
    kicked: bool
    requested: bool
    world: Annotated[int, Integer(1)] | None = None


class Left(NamedTuple):
    """The last round that ended without a request: the nodes that left it first, and when."""

    round: Rounds
    addresses: tuple[Address, ...]
    time: Seconds


@dataclass(frozen=True)
class Note:
    """What the next host needs to know."""

    instance: Annotated[str, Text(64, r"[0-9a-f]+", kind="a hexadecimal number")]
    version: Annotated[int, Integer()]
    """Of the state document when the note was written."""
    rounds: Rounds = 0
    requested: Rounds = 0
    unrequested: Rounds = 0
    last_unrequested: Left | None = None
    completed_at: Seconds | None = None
    running: Ran | None = None


def noted(memory: Memory, instance: str, version: int) -> Note:
    """Return the note about what this host knows."""
    running = memory.running
    ran = None
    if running is not None:
        members = sorted((rank, node) for node, rank in running.members.items())
        trained = tuple(Trained(*node, rank) for rank, node in members)
        ran = Ran(running.round, trained, running.kicked, running.requested, running.world)
    return Note(
        instance=instance,
        version=version,
        rounds=memory.rounds,
        requested=memory.requested,
        unrequested=memory.unrequested,
        last_unrequested=Left(*memory.last_unrequested) if memory.last_unrequested is not None else None,
        completed_at=memory.completed_at,
        running=ran,
    )


def resumed(note: Note, view: View, memory: Memory, *, same: bool = True) -> Memory:
    """Return what a host with this memory remembers after it has taken over this state.

    Without ``same``, the operator knows this host as another instance, and counts its rounds from zero.

    A round whose members may not all have seen it yet ends: what they told each other in the store is lost.
    """
    last = note.last_unrequested
    if not same:
        note, last = replace(note, requested=0, unrequested=0), None
    memory = replace(
        memory,
        rounds=note.rounds,
        requested=note.requested,
        unrequested=note.unrequested,
        last_unrequested=(last.round, last.addresses, last.time) if last is not None else None,
        completed_at=note.completed_at,
    )
    running = _running(note.running, view) if note.running is not None else None
    if running is None and view.complete and view.participants:
        running = replace(started(view), kicked=True, requested=True)
    return replace(memory, running=running, returning=running.still if running else frozenset())


def _running(ran: Ran, view: View) -> Running | None:
    members = {Node(each.address, each.pid, each.local_id): each.rank for each in ran.members}
    running = Running(ran.round, members, frozenset(members), dict.fromkeys(members, -math.inf), world=ran.world)
    if view.complete and view.round == ran.round:
        still = frozenset(node for node in members if node in view.participants)
        return replace(running, still=still, kicked=True, requested=True)
    if view.complete or view.round != ran.round + 1:
        return None
    kicked = ran.kicked or KICK in view.waiting
    # The last host dropped members that it evicted from the heartbeats too: this one would wait for them forever.
    still = frozenset(node for node in members if node in view.heartbeats) - view.listed()
    return replace(running, still=still, kicked=kicked, requested=ran.requested)


def written(note: Note) -> str:
    """Return the note as text for the state of torchrun."""
    return base64.b64encode(zlib.compress(json.dumps(write(note), separators=(",", ":")).encode())).decode()


def read_note(text: object) -> Note:
    """Return the note in a state. Raises ProtocolError: any node could have written it."""
    try:
        if not isinstance(text, str):
            raise TypeError
        packed = zlib.decompressobj()
        plain = packed.decompress(base64.b64decode(text, validate=True), MAX_BYTES)
        if packed.unconsumed_tail:
            raise ValueError
        document: Any = json.loads(plain)
    except (ValueError, TypeError, RecursionError, zlib.error):
        raise ProtocolError("note: packed JSON is needed") from None
    return read(Note, document)
