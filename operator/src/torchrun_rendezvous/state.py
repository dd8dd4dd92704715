"""Torch's pickled rendezvous state, read into a view and written back."""

from __future__ import annotations

import base64
import io
import pickle
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, TypeVar

from torchrun_rendezvous import pickles
from torchrun_rendezvous.note import ATTRIBUTE
from torchrun_rendezvous.view import KICK, Node, View

if TYPE_CHECKING:
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _NodeDesc, _RendezvousState

T = TypeVar("T")
MAX_STATE_BYTES = 8 << 20
"""The store accepts no larger values."""
MAX_STATE_NODES = 16_384
MAX_ROUND = 2**53


class StateError(Exception):
    """The store has a value that torch did not write. Agents never do this; other clients of the store can."""


class TorchState:
    """Stands for torch's _RendezvousState, and has its attributes."""

    round: int
    complete: bool
    closed: bool
    deadline: datetime | None
    participants: dict[TorchNode, int]
    wait_list: set[TorchNode]
    redundancy_list: set[TorchNode]
    last_heartbeats: dict[TorchNode, datetime]


class TorchNode:
    """Stands for torch's _NodeDesc, and has its attributes."""

    def __init__(self, addr: str, pid: int, local_id: int) -> None:
        self.addr, self.pid, self.local_id = addr, pid, local_id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TorchNode) and _node(self) == _node(other)

    def __hash__(self) -> int:
        return hash((self.addr, self.pid, self.local_id))


class Codec:
    """Converts between torch's pickled state and a view. Values that are not in the view stay unchanged in the state.

    A pickle can refer only to times and torch's two state classes. For these it gets new stand-in classes each time,
    because a pickle can also change classes.
    """

    SENTINEL = b"Y2FuaW1hZGFt"
    """Torch's own mark for "no state yet"."""

    def __init__(self, state_class: type[_RendezvousState], node_class: type[_NodeDesc]) -> None:
        self._state_class, self._node_class = state_class, node_class

    def decode(self, raw: bytes) -> TorchState | None:
        """Return the state, or None if there is none yet. Raises StateError."""
        if raw == self.SENTINEL:
            return None
        if len(raw) > MAX_STATE_BYTES:
            raise StateError(f"{len(raw)} bytes")
        classes = {
            (self._state_class.__module__, self._state_class.__name__): type("State", (TorchState,), {}),
            (self._node_class.__module__, self._node_class.__name__): type("Node", (TorchNode,), {}),
            **{(kind.__module__, kind.__name__): kind for kind in (datetime, timezone, timedelta)},
        }
        try:
            state = pickles.load(base64.b64decode(raw, validate=True), classes)
        except Exception as error:  # a pickle can raise nearly anything
            raise StateError(repr(error)[:300]) from None
        if not isinstance(state, TorchState):
            raise StateError(f"a {type(state).__name__}")
        return state

    def view(self, state: TorchState | None, finished: int) -> View:
        """Return the view of a state. Raises StateError if torch's agents could not have written it."""
        if state is None:
            return View()
        try:
            return _view(state, finished)
        except StateError:
            raise
        except Exception as error:
            raise StateError(repr(error)[:300]) from None

    def note(self, state: TorchState | None) -> object:
        """Return the note of a host in a state; None if there is none."""
        return getattr(state, ATTRIBUTE, None)

    def encode(self, state: TorchState, view: View, note: str | None = None) -> bytes:
        """Apply the view to a state, with the note if there is one. Return the state in the form of the store."""
        if note is not None:
            setattr(state, ATTRIBUTE, note)
        state.round, state.complete, state.closed = view.round, view.complete, view.closed
        if not view.deadline:
            state.deadline = None
        state.participants = {TorchNode(*node): rank for node, rank in view.participants.items()}
        state.wait_list = {TorchNode(*node) for node in view.waiting}
        state.redundancy_list = {TorchNode(*node) for node in view.redundant}
        known = {_node(desc): beat for desc, beat in state.last_heartbeats.items()}
        state.last_heartbeats = {
            TorchNode(*node): _heartbeat(known.get(node), beat) for node, beat in view.heartbeats.items()
        }
        return base64.b64encode(self._pickled(state))

    def _pickled(self, state: TorchState) -> bytes:
        state_class, node_class = self._state_class, self._node_class

        class Pickler(pickle.Pickler):
            def reducer_override(self, thing: object) -> Any:  # noqa: ANN401 - as pickle declares it
                if isinstance(thing, TorchNode):
                    return node_class, tuple(_node(thing))
                return (state_class, (), vars(thing)) if isinstance(thing, TorchState) else NotImplemented

        buffer = io.BytesIO()
        Pickler(buffer, protocol=4).dump(state)
        return buffer.getvalue()


def _heartbeat(known: datetime | None, beat: float) -> datetime:
    """Return the heartbeat of the state, unless it changed."""
    return known if known is not None and known.timestamp() == beat else datetime.fromtimestamp(beat, timezone.utc)


def _view(state: TorchState, finished: int) -> View:
    beats = state.last_heartbeats.items()
    view = View(
        round=_checked(state.round, int),
        complete=_checked(state.complete, bool),
        closed=_checked(state.closed, bool),
        deadline=state.deadline is not None,
        participants={_node(desc): _checked(rank, int) for desc, rank in state.participants.items()},
        waiting=frozenset(_node(desc) for desc in state.wait_list),
        redundant=frozenset(_node(desc) for desc in state.redundancy_list),
        heartbeats={_node(desc): _checked(beat, datetime).timestamp() for desc, beat in beats},
        finished=finished,
    )
    if not 0 <= view.round <= MAX_ROUND or KICK in view.heartbeats or KICK in view.participants:
        raise StateError("a round or a node that cannot be")
    if len(view.listed() | set(view.heartbeats)) > MAX_STATE_NODES:
        raise StateError(f"more than {MAX_STATE_NODES} nodes")
    return view


def _node(desc: TorchNode) -> Node:
    if len(_checked(desc.addr, str)) > 255:
        raise StateError("an address above 255 characters")
    return Node(desc.addr, _checked(desc.pid, int), _checked(desc.local_id, int))


def _checked(value: object, kind: type[T]) -> T:
    if type(value) is not kind:
        raise StateError(f"a {type(value).__name__} where a {kind.__name__} belongs")
    return value
