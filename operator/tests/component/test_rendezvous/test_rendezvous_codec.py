"""Torch's own pickled state, read and written."""

import base64
import os
import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from torchrun_operator.rendezvous.host import Codec, Node, View

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
    state.of_a_newer_torch = ["kept"]  # type: ignore[attr-defined]

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
        heartbeats={nodes[1]: 0.0, nodes[2]: 0.0},
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
        "last_heartbeats": {second: NOW + timedelta(seconds=1), third: NOW},
        "of_a_newer_torch": ["kept"],
    }


class Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch executed",)


@pytest.mark.parametrize("thing", [Malicious(), Path("x"), print])
def test_nothing_else_is_loaded(thing: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _NodeDesc, _RendezvousState

    monkeypatch.chdir(tmp_path)
    codec = Codec(_RendezvousState, _NodeDesc)
    with pytest.raises(pickle.UnpicklingError, match="refused to load"):
        codec.decode(base64.b64encode(pickle.dumps(thing)))
    assert list(tmp_path.iterdir()) == []


def test_no_state_yet() -> None:
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _NodeDesc, _RendezvousState

    codec = Codec(_RendezvousState, _NodeDesc)
    assert codec.decode(b"Y2FuaW1hZGFt") is None
    assert codec.view(None, 0) == View()
