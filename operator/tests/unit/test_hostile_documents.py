"""Whatever a rendezvous host says, its document is refused, or every decision about the job stays within its bounds."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import NOW, THREE, after, decide, failed, make_job, seen, stored, without
from torchrun_operator.api.v1alpha1 import TorchrunJob
from torchrun_operator.core.facts.model import NodePod
from torchrun_rendezvous.protocol import ProtocolError, RendezvousState, Target

MOST_BYTES = 16_384
"""Of the status of a job of three nodes."""
MEMBERS = [{"address": node.address, "rank": index} for index, node in enumerate(THREE)]
SENSIBLE: dict[str, Any] = {
    "instance": "aa", "version": 5, "round": 3, "complete": True, "closed": False, "finished": 0,
    "members": MEMBERS, "waiting": ["10.0.1.0"], "silent": [], "missing": ["10.0.1.1"],
    "target": {"generation": 1, "size": 3, "min": 2, "lastCallSeconds": 15, "leavers": ["10.0.1.2"]},
    "roundsEnded": {"requested": 2, "unrequested": 1},
    "lastUnrequested": {"round": 2, "addresses": ["10.0.1.1"], "time": "2026-01-31T11:59:00Z"},
    "completedAt": "2026-01-31T11:58:00Z",
    "progress": {
        "step": 100, "time": "2026-01-31T11:59:30Z", "worldSize": 6, "totalSteps": 1000, "epoch": 2, "loss": 0.25,
        "samplesPerSecond": 10.5, "snapshotStep": 90, "snapshotTime": "2026-01-31T11:59:00Z", "beat": 1, "slowRank": 4,
        "slowNode": 2, "slowSeconds": 0.1, "stepSeconds": 0.4,
    },
    "pace": {
        "longestPauseSeconds": 8, "longestStartSeconds": 32,
        "overdue": {"round": 3, "step": 100, "starting": False, "seconds": 300.0, "since": "2026-01-31T11:54:00Z"},
    },
}  # fmt: skip
EXTREMES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**31 + 1, 2**53, 2**63, 10**400, -(10**400), 0.5, 1e12, 1e308, -1e308, 5e-324,
    float("nan"), float("inf"), "", "\x00\x1b[31m", "\ud800", "\u202e", "a" * 100_000, "10.0.1.0", "::1",
    "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999-23:59", "2199-12-31T23:59:59Z",
    "1970-01-01T00:00:00Z", "2026-01-31T12:00:00Z", [], {}, [[]], [{}], ["10.0.1.0"] * 200,
    [{"address": "10.0.1.0", "rank": 2**53}] * 200,
]  # fmt: skip
HOSTILE = st.sampled_from(EXTREMES) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def _places(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in children:
        yield from _places(inner, (*path, name))


def _with(value: Any, path: tuple[Any, ...], new: object) -> Any:
    """Return the document with another value in that place."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = _with(value[path[0]], path[1:], new)
    return copy


PLACES = sorted(_places(SENSIBLE), key=str)


@st.composite
def documents(draw: st.DrawFn) -> Any:
    """Return a sensible document with other values in a few places."""
    document: Any = SENSIBLE
    for path in draw(st.lists(st.sampled_from(PLACES), max_size=4)):
        try:
            document = _with(document, path, draw(HOSTILE))
        except (LookupError, TypeError, AttributeError):
            continue  # an earlier change has removed that place
    return document


def _read(body: bytes) -> RendezvousState | None:
    """Return the state, or None if the document is refused. Any other outcome fails the test."""
    try:
        return RendezvousState.read(body)
    except ProtocolError as error:
        problem = str(error)
    assert len(problem) < 300
    return None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | HOSTILE.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_that_are_no_document_are_refused(body: bytes) -> None:
    assert _read(body) is None


@pytest.mark.parametrize("body", [b"[" * 500_000, b'{"a":' * 500_000, b"9" * 500_000, b'"' + b"\\u0000" * 99_999])
def test_deep_and_long_values_are_refused(body: bytes) -> None:
    assert _read(body) is None


TRAINING = after(make_job(), seen(*THREE, rendezvous=RendezvousState.parse(SENSIBLE | {"instance": "bb"})))


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_one_extreme_value_in_a_document_is_harmless(place: tuple[Any, ...]) -> None:
    for value in EXTREMES:
        _decided([_with(SENSIBLE, place, value)], THREE, TRAINING)


@settings(max_examples=100, deadline=None)
@given(st.lists(documents(), min_size=1, max_size=4), st.booleans())
def test_decisions_about_any_documents_are_bounded(said: list[Any], one_fails: bool) -> None:
    nodes = (*without(THREE, 1), failed(1, 1, message="ValueError")) if one_fails else THREE
    _decided(said, nodes, make_job())


def _decided(said: list[Any], nodes: tuple[NodePod, ...], job: TorchrunJob) -> None:
    """Let a job decide about each document in turn, and check what it would write and send."""
    now = NOW
    for document in said:
        state = _read(json.dumps(document).encode())
        decision = decide(job, seen(*nodes, rendezvous=state), now)
        status = decision.status.wire()
        assert len(json.dumps(status, allow_nan=False).encode()) <= MOST_BYTES
        assert all(abs(number) < 2**63 for number in _integers(status))
        assert all(len(event.message) <= 1024 for event in decision.events)
        assert decision.plan.target is None or Target.parse(json.loads(_json(decision.plan.target))) is not None
        job, now = stored(job, decision), now + timedelta(seconds=2)


def _json(target: Target) -> str:
    return json.dumps(target.document(), allow_nan=False)


def _integers(value: object) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inner:
        yield from _integers(one)
