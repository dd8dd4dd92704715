"""Keeps the place of a node that leaves a complete round, so that all members take the round for equally large.

torch removes a member that leaves from the round. An agent that reads the round only then takes it for a smaller one
than the others, and tells its workers so. The rendezvous host puts a node that does not exist in that place, but an
agent may read first. So an agent that leaves does the same, in the very write with which it leaves.
"""

from __future__ import annotations

import base64
import pickle

TYPE_CHECKING = False  # the module typing is slow to import
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

NOTHING = b"Y2FuaW1hZGFt"
"""Torch's own mark for "no state yet"."""
ABSENT = "~torchrun-operator"
"""The address of nodes that do not exist. The rendezvous host uses it too (torchrun_rendezvous.view)."""


def state_of(value: bytes) -> Any:  # noqa: ANN401 torch's class
    """Return torch's state in a value of the store, which torch's agent reads in the same way; None: no state yet."""
    return None if value in (NOTHING, b"") else pickle.loads(base64.b64decode(value))  # noqa: S301


def with_places(before: bytes, after: bytes) -> bytes:
    """Return the state to write in place of ``after``, which an agent makes of ``before``."""
    new = state_of(after)
    if new is None or not new.complete:
        return after
    old = state_of(before)
    if old is None or not old.complete or old.round != new.round:
        return after
    places = dict(_left(old.participants, new.participants))
    if not places:
        return after
    new.participants.update(places)
    return base64.b64encode(pickle.dumps(new))


def _left(old: dict[Any, int], new: dict[Any, int]) -> Iterator[tuple[Any, int]]:
    """Yield the nodes that take the places of those that have left, with their ranks."""
    for node, rank in old.items():
        if node not in new:
            yield type(node)(ABSENT, 0, 1 + rank), rank
