"""Reading and writing the pickled state of torch."""

import base64
import os
import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from torchrun_rendezvous.state import Codec, StateError, TorchNode, TorchState
from torchrun_rendezvous.view import KICK, Node, View

pytestmark = pytest.mark.torch
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def test_torchs_state_is_read_changed_and_otherwise_kept() -> None:
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _NodeDesc, _RendezvousState

    codec = Codec(_RendezvousState, _NodeDesc)
    first, second, third = (_NodeDesc(f"10.0.0.{i}", i, 0) for i in range(3))
    state = _RendezvousState()
    state.round, state.deadline = 3, NOW
    state.participants = {first: 0, second: 0}
    state.wait_list = {third}
    state.last_heartbeats = {first: NOW, second: NOW + timedelta(seconds=1), third: NOW}
    state.of_a_newer_torch = ["kept", third]  # type: ignore[attr-defined]

    read = codec.decode(base64.b64encode(pickle.dumps(state)))
    assert read is not None
    nodes = [Node(f"10.0.0.{i}", i, 0) for i in range(3)]
    view = codec.view(read, 2)
    assert view == View(
        round=3,
        deadline=True,
        participants={nodes[0]: 0, nodes[1]: 0},
        waiting=frozenset({nodes[2]}),
        heartbeats={nodes[0]: NOW.timestamp(), nodes[1]: NOW.timestamp() + 1, nodes[2]: NOW.timestamp()},
        finished=2,
    )

    wanted = View(
        round=4,
        complete=True,
        closed=True,
        participants={nodes[1]: 0},
        redundant=frozenset({nodes[2]}),
        heartbeats={nodes[1]: NOW.timestamp() + 1, nodes[2]: NOW.timestamp() + 5},
    )
    written = pickle.loads(base64.b64decode(codec.encode(read, wanted)))
    assert vars(written) == {
        "round": 4,
        "complete": True,
        "closed": True,
        "deadline": None,
        "participants": {second: 0},
        "wait_list": set(),
        "redundancy_list": {third},
        "last_heartbeats": {second: NOW + timedelta(seconds=1), third: NOW + timedelta(seconds=5)},
        "of_a_newer_torch": ["kept", third],
    }


class Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch executed",)


class Anything:
    """Pickles as the given value."""

    def __init__(self, *reduced: object) -> None:
        self.reduced = reduced

    def __reduce__(self) -> tuple[object, ...]:
        return self.reduced


def _codec() -> Codec:
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _NodeDesc, _RendezvousState

    return Codec(_RendezvousState, _NodeDesc)


def _state(**attributes: Any) -> bytes:
    """Return a valid state of one node with the given attributes; None: without that attribute."""
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _NodeDesc, _RendezvousState

    state, node = _RendezvousState(), _NodeDesc("10.0.0.1", 1, 0)
    state.participants, state.last_heartbeats = {node: 0}, {node: NOW}
    for name, value in attributes.items():
        setattr(state, name, value)
    return base64.b64encode(pickle.dumps(state))


def _desc(*attributes: Any) -> object:
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _NodeDesc

    return _NodeDesc(*attributes)


def _raw(*operations: bytes) -> bytes:
    return base64.b64encode(b"".join((pickle.PROTO, b"\x04", *operations, pickle.STOP)))


@pytest.mark.parametrize("thing", [Malicious(), Path("x"), print, Anything(getattr, (timedelta, "min"))])
def test_nothing_else_is_loaded(thing: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for raw in (base64.b64encode(pickle.dumps(thing)), _state(of_a_newer_torch=thing), _state(round=thing)):
        with pytest.raises(StateError, match="refused to load"):
            _codec().decode(raw)
    assert list(tmp_path.iterdir()) == []


NOT_STATES = {
    "nothing": b"",
    "no base64": b"\xff\x00",
    "no pickle": base64.b64encode(b"garbage"),
    "half a pickle": base64.b64encode(base64.b64decode(_state())[:-20]),
    "another thing": base64.b64encode(pickle.dumps({"round": 1})),
    "a node": base64.b64encode(pickle.dumps(_desc("10.0.0.1", 1, 0))),
    "text of protocol 0, which names classes by lines": base64.b64encode(b"cos\nsystem\n(S'touch executed'\ntR."),
    "an index that takes all memory": _raw(pickle.NONE, pickle.LONG_BINPUT, b"\xff\xff\xff\x7f"),
    "a text longer than the pickle": _raw(pickle.BINUNICODE8, b"\xff\xff\xff\xff\xff\xff\xff\x00", b"text"),
    "lists in lists": _raw(pickle.EMPTY_LIST * 100_000, pickle.APPEND * 99_999),
    "larger than any state": base64.b64encode(bytes(13 << 20)),
}
NO_VIEWS: dict[str, dict[str, Any]] = {
    "a round that is text": {"round": "5"},
    "a round that is none": {"round": True},
    "a round before the first": {"round": -1},
    "a round that no key can hold": {"round": 1 << 70},
    "complete is a number": {"complete": 1},
    "closed is nothing": {"closed": None},
    "participants in a list": {"participants": []},
    "participants by name": {"participants": {"10.0.0.1": 0}},
    "a rank that is text": {"participants": {_desc("10.0.0.1", 1, 0): "0"}},
    "a node whose address is a number": {"wait_list": {_desc(1, 1, 0)}},
    "a node whose address is too long": {"wait_list": {_desc("x" * 256, 1, 0)}},
    "a node whose process is text": {"redundancy_list": {_desc("10.0.0.1", "1", 0)}},
    "a heartbeat that is a number": {"last_heartbeats": {_desc("10.0.0.1", 1, 0): 5.0}},
    "the node that does not exist as a member": {"last_heartbeats": {_desc(*KICK): NOW}},
    "too many nodes": {"wait_list": {_desc("10.0.0.1", number, 0) for number in range(16_385)}},
}


@pytest.mark.parametrize("raw", NOT_STATES.values(), ids=NOT_STATES.keys())
def test_an_invalid_state_is_rejected(raw: bytes) -> None:
    with pytest.raises(StateError):
        _codec().decode(raw)


@pytest.mark.parametrize("attributes", NO_VIEWS.values(), ids=NO_VIEWS.keys())
def test_a_state_that_torch_could_not_have_written(attributes: dict[str, Any]) -> None:
    codec = _codec()
    with pytest.raises(StateError):
        codec.view(codec.decode(_state(**attributes)), 0)


def test_a_pickle_cannot_change_the_classes_it_is_given() -> None:
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _NodeDesc, _RendezvousState

    names = [name.encode() for name in (_NodeDesc.__module__, _NodeDesc.__qualname__)]
    load = [pickle.SHORT_BINUNICODE + bytes([len(name)]) + name for name in names]
    # Unpickling sets attributes of any object that it has created, also of a class. Here, nodes would lose their hash.
    pollution = [*load, pickle.STACK_GLOBAL, pickle.NONE, pickle.EMPTY_DICT]
    key = pickle.SHORT_BINUNICODE + b"\x08__hash__"
    pollution += [key, pickle.NONE, pickle.SETITEM, pickle.TUPLE2, pickle.BUILD]
    codec, before = _codec(), [dict(vars(c)) for c in (_NodeDesc, _RendezvousState, TorchNode, TorchState)]
    with pytest.raises(StateError):
        codec.decode(_raw(*pollution))
    assert [dict(vars(c)) for c in (_NodeDesc, _RendezvousState, TorchNode, TorchState)] == before
    assert codec.view(codec.decode(_state()), 0).participants == {Node("10.0.0.1", 1, 0): 0}


def test_no_state_yet() -> None:
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _NodeDesc, _RendezvousState

    codec = Codec(_RendezvousState, _NodeDesc)
    assert codec.decode(b"Y2FuaW1hZGFt") is None
    assert codec.view(None, 0) == View()
