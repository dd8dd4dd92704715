"""What torchrun's state in the store says, as a value that decisions compare and change."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple


class Node(NamedTuple):
    """A node as torchrun describes it. It sorts as there, and that order decides the ranks."""

    address: str
    pid: int
    local_id: int


KICK = Node("~torchrun-operator", 0, 0)
"""A node that does not exist. While it waits, the members of a round restart; it never has a heartbeat."""


def absent(rank: int) -> Node:
    """Return the node that does not exist and has that rank, in the place of a member that has left."""
    return KICK._replace(local_id=1 + rank)


def exists(node: Node) -> bool:
    """Whether an agent may be behind the node: it is neither KICK nor in the place of a member that has left."""
    return node.address != KICK.address


@dataclass(frozen=True)
class View:
    """What torchrun's state says. Heartbeats are seconds since the epoch."""

    round: int = 0
    complete: bool = False
    closed: bool = False
    deadline: bool = False
    """Agents have agreed on a time at which they complete the round by themselves."""
    participants: Mapping[Node, int] = field(default_factory=dict)
    """Their ranks count only in a complete round."""
    waiting: frozenset[Node] = frozenset()
    redundant: frozenset[Node] = frozenset()
    heartbeats: Mapping[Node, float] = field(default_factory=dict)
    finished: int = 0
    """How many agents wait for the others because their workers are done."""

    def listed(self) -> set[Node]:
        """Return the nodes in any list."""
        return {*self.participants, *self.waiting, *self.redundant}

    def joined(self) -> set[Node]:
        """Return the listed nodes with a heartbeat. Others are no agent's, and as participants they would break it."""
        return {node for node in self.listed() if node in self.heartbeats}

    def unlisted(self, nodes: Iterable[Node]) -> View:
        """Drop nodes from every list. Their heartbeats stay: an agent that runs workers goes on sending them."""
        gone = frozenset(nodes)
        return replace(
            self,
            participants={node: rank for node, rank in self.participants.items() if node not in gone},
            waiting=self.waiting - gone,
            redundant=self.redundant - gone,
        )

    def without(self, nodes: Iterable[Node]) -> View:
        """Drop nodes everywhere. Their heartbeats go too: torch raises when it removes a node that has none."""
        gone = frozenset(nodes)
        beats = {node: beat for node, beat in self.heartbeats.items() if node not in gone}
        return replace(self.unlisted(gone), heartbeats=beats)

    def with_kick(self) -> View:
        """Have the members restart: a node that does not exist waits."""
        return replace(self, waiting=self.waiting | {KICK})


def addresses(nodes: Iterable[Node]) -> tuple[str, ...]:
    """Return the nodes' addresses, sorted, each once."""
    return tuple(sorted({node.address for node in nodes}))


def plain_address(text: str) -> str:
    """Return the one spelling of an IP address; an IPv4 address may come as an IPv6 one. Other names stay."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    return str(getattr(address, "ipv4_mapped", None) or address)
