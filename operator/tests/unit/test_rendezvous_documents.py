"""The documents between operator, host and workers: accepted and rejected ones, and that both sides agree."""

import json
import math
import socket
from datetime import UTC, datetime
from typing import Any

import pytest

from torchrun_operator.rendezvous.client import token_digest, token_for
from torchrun_operator.rendezvous.exchange import open_socket
from torchrun_rendezvous.documents import time_of
from torchrun_rendezvous.protocol import (
    EndRound,
    Member,
    Overdue,
    Pace,
    Progress,
    ProtocolError,
    RendezvousState,
    RoundsEnded,
    Target,
    Unrequested,
)

TARGET = {
    "generation": 7,
    "size": 3,
    "min": 2,
    "lastCallSeconds": 5.0,
    "leavers": ["10.0.0.1", "10.0.0.9"],
    "close": False,
    "endRound": {"instance": "00ff", "round": 2},
    "progressDeadlineSeconds": 300.0,
    "startDeadlineSeconds": None,
}
PROGRESS = {
    "step": 100,
    "totalSteps": 1000,
    "epoch": 2,
    "loss": 0.25,
    "samplesPerSecond": 10.5,
    "worldSize": 6,
    "snapshotStep": 90,
    "snapshotTime": "2026-01-31T12:00:00.000Z",
    "beat": 1,
    "slowRank": 4,
    "slowNode": 2,
    "slowSeconds": 0.1,
    "stepSeconds": 0.4,
}
STATE: dict[str, Any] = {
    "instance": "00ff",
    "version": 5,
    "round": 3,
    "complete": True,
    "closed": False,
    "finished": 1,
    "members": [{"address": "10.0.0.2", "rank": 0}],
    "waiting": ["10.0.0.3"],
    "missing": ["10.0.0.4"],
    "target": TARGET,
    "roundsEnded": {"requested": 2, "unrequested": 1},
    "lastUnrequested": {"round": 2, "addresses": ["10.0.0.2"], "time": "2026-01-31T12:00:00.500Z"},
    "completedAt": "2026-01-31T12:00:01.000Z",
    "progress": {**PROGRESS, "time": "2026-01-31T12:00:02.000Z"},
    "pace": {
        "longestPauseSeconds": 8,
        "longestStartSeconds": 32,
        "overdue": {"round": 3, "step": 100, "starting": False, "seconds": 300.0, "since": "2026-01-31T12:00:02.000Z"},
    },
}


NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
REPORTED: dict[str, Any] = {
    "step": 100,
    "total_steps": 1000,
    "epoch": 2,
    "loss": 0.25,
    "samples_per_second": 10.5,
    "world_size": 6,
    "snapshot_step": 90,
    "snapshot_time": NOON,
    "beat": 1,
    "slow_rank": 4,
    "slow_node": 2,
    "slow_seconds": 0.1,
    "step_seconds": 0.4,
    "time": NOON.replace(second=2),
}
"""The progress in STATE, as it is read."""


WANTED = Target(
    generation=7,
    size=3,
    minimum=2,
    last_call_seconds=5.0,
    leavers=("10.0.0.9", "10.0.0.1"),
    end_round=EndRound(instance="00ff", round=2),
    progress_deadline_seconds=300,
)


@pytest.mark.parametrize(
    ("more", "silent"), [({}, None), ({"silent": []}, ()), ({"silent": ["10.0.0.3"]}, ("10.0.0.3",))]
)
def test_a_host_may_report_the_silent_nodes(more: dict[str, Any], silent: tuple[str, ...] | None) -> None:
    assert RendezvousState.read(json.dumps({**STATE, **more}).encode()).silent == silent


def test_the_kernel_detects_a_lost_host() -> None:
    with open_socket(socket.AF_INET) as made:
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        idle, every, count = (
            made.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + every * count <= 11


def test_the_operator_reads_what_the_host_writes() -> None:
    state = RendezvousState.read(json.dumps({**STATE, "later": "a newer host may send more fields"}).encode())
    assert state == RendezvousState(
        instance="00ff",
        version=5,
        round=3,
        complete=True,
        closed=False,
        finished=1,
        members=(Member(address="10.0.0.2", rank=0),),
        waiting=("10.0.0.3",),
        missing=("10.0.0.4",),
        target=WANTED,
        rounds_ended=RoundsEnded(requested=2, unrequested=1),
        last_unrequested=Unrequested(round=2, addresses=("10.0.0.2",), time=NOON.replace(microsecond=500_000)),
        completed_at=NOON.replace(second=1),
        progress=Progress(**REPORTED),
        pace=Pace(
            longest_pause_seconds=8,
            longest_start_seconds=32,
            overdue=Overdue(round=3, step=100, starting=False, seconds=300, since=NOON.replace(second=2)),
        ),
    )


def test_a_host_of_an_older_operator_is_understood() -> None:
    older = {key: value for key, value in STATE.items() if key not in ("pace", "missing")}
    state = RendezvousState.read(json.dumps(older).encode())
    assert (state.pace, state.missing) == (Pace(), ())


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"instance": "not hex"}, "instance"),
        ({"version": -1}, "version"),
        ({"version": "5"}, "version"),
        ({"version": 2**60}, "version"),
        ({"members": [{"address": "x" * 256, "rank": 0}]}, "members.0.address"),
        ({"members": [{"address": "10.0.0.2", "rank": 0}] * 16_385}, "members"),
        ({"waiting": [""]}, "waiting.0"),
        ({"waiting": None}, "waiting"),
        ({"target": {**TARGET, "min": 0}}, "target.min"),
        ({"completedAt": "2026-01-31T12:00:01"}, "completedAt"),
        ({"progress": {**PROGRESS, "time": "2026-01-31T12:00:02Z", "loss": "low"}}, "progress.loss"),
        ({"progress": {"step": 1, "time": "2026-01-31T12:00:02Z"}}, "progress.worldSize"),
        ({"progress": {**PROGRESS, "time": 5}}, "progress.time"),
        ({"progress": {**PROGRESS, "time": "2026-01-31T12:00:02Z", "worldSize": None}}, "progress.worldSize"),
        ({"complete": 1}, "complete"),
        ({"finished": None}, "finished"),
        ({"pace": None}, "pace"),
        ({"lastUnrequested": {"round": 2, "addresses": ["\ud800"], "time": None}}, "lastUnrequested.addresses.0"),
        ({"roundsEnded": {"requested": 1}}, "roundsEnded.unrequested"),
        ({"target": {**TARGET, "endRound": {"instance": "x" * 65, "round": 1}}}, "target.endRound.instance"),
        ({"pace": {"overdue": {"round": 1}}}, "pace.overdue.step"),
    ],
)
def test_bad_state_documents_are_refused(change: dict[str, object], where: str) -> None:
    with pytest.raises(ProtocolError, match=f"^{where}: .* needed"):
        RendezvousState.read(json.dumps({**STATE, **change}).encode())


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff", b"{}"])
def test_an_invalid_state_document_is_rejected(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        RendezvousState.read(body)


@pytest.mark.parametrize("field", [field for field in STATE if field not in ("finished", "missing", "pace")])
def test_fields_that_every_host_sends_are_required(field: str) -> None:
    with pytest.raises(ProtocolError, match=f"^{field}: .* needed"):
        RendezvousState.parse({key: value for key, value in STATE.items() if key != field})


def test_what_is_written_is_read_alike() -> None:
    state = RendezvousState.parse(STATE)
    assert json.loads(json.dumps(state.document())) == state.document()
    assert RendezvousState.parse(state.document()) == state
    bare = RendezvousState("aa")
    assert RendezvousState.parse(bare.document()) == bare
    assert EndRound.parse(EndRound("aa", 1).document()) == EndRound("aa", 1)
    assert Member.parse(Member("10.0.0.1", 1).document()) == Member("10.0.0.1", 1)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-01-31T12:00:00Z", NOON),
        ("2026-01-31 14:00:00+02:00", NOON),
        ("2026-01-31T09:00-0300", NOON),
        ("2026-01-31t12:00z", NOON),
        ("2026-01-31T12:00:00.5Z", NOON.replace(microsecond=500_000)),
        ("2026-01-31T12:00:00.123456789Z", NOON.replace(microsecond=123_456)),
        ("2026-02-30T12:00:00Z", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("2026-W05-6T12:00:00Z", None),
        ("20260131T120000Z", None),
        ("2026-01-31T12:00:00Z" + " " * 30, None),
    ],
)
def test_times_are_read_alike_by_every_python(text: str, time: datetime | None) -> None:
    document = {"round": 1, "addresses": [], "time": text}
    if time is not None:
        assert Unrequested.parse(document).time == time
    else:
        with pytest.raises(ProtocolError, match=r"^time: a time like"):
            Unrequested.parse(document)


def test_times_of_the_host_have_milliseconds() -> None:
    assert Unrequested(1, (), time_of(1.0009)).document()["time"] == "1970-01-01T00:00:01.000Z"
    assert Unrequested(1, (), NOON.replace(microsecond=1)).document()["time"] == "2026-01-31T12:00:00.000001Z"


def test_the_host_reads_what_the_operator_writes() -> None:
    assert WANTED.document() == TARGET
    assert Target.parse(WANTED.document()) == WANTED
    assert WANTED.leavers == ("10.0.0.1", "10.0.0.9")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generation": None}, "generation: an integer"),
        ({"size": -1}, "size: an integer"),
        ({"size": True}, "size: an integer"),
        ({"size": 1.5}, "size: an integer"),
        ({"size": 1_048_577}, "size: an integer"),
        ({"min": 0}, "min: an integer"),
        ({"lastCallSeconds": "5"}, "lastCallSeconds: a finite number"),
        ({"lastCallSeconds": math.nan}, "lastCallSeconds: a finite number"),
        ({"lastCallSeconds": math.inf}, "lastCallSeconds: a finite number"),
        ({"leavers": "10.0.0.1"}, "leavers: a list"),
        ({"leavers": ["a"] * 16_385}, "leavers: a list"),
        ({"leavers": [1]}, r"leavers\.0: an address"),
        ({"leavers": [""]}, r"leavers\.0: an address"),
        ({"close": 1}, "close: true or false"),
        ({"endRound": 2}, "endRound: a JSON object"),
        ({"endRound": {"round": 2}}, r"endRound\.instance: text"),
        ({"endRound": {"instance": "aa"}}, r"endRound\.round: an integer"),
        ({"progressDeadlineSeconds": 0}, "progressDeadlineSeconds: a finite number"),
        ({"startDeadlineSeconds": "soon"}, "startDeadlineSeconds: a finite number"),
    ],
)
def test_bad_targets_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ProtocolError, match=f"^{message}"):
        Target.parse({**TARGET, **change})


@pytest.mark.parametrize(
    ("document", "kept"),
    [
        (PROGRESS, PROGRESS),
        ({**PROGRESS, "more": [1]}, PROGRESS),
        ({"step": 0, "worldSize": 1}, dict.fromkeys(PROGRESS) | {"step": 0, "worldSize": 1}),
        (PROGRESS | {"loss": None, "snapshotTime": None}, PROGRESS | {"loss": None, "snapshotTime": None}),
    ],
)
def test_progress(document: dict[str, object], kept: dict[str, object]) -> None:
    time = "1970-01-01T00:00:00.000Z"
    assert Progress.parse({**document, "time": time}).document() == {**kept, "time": time}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": None}, "step: an integer"),
        ({"step": -1}, "step: an integer"),
        ({"worldSize": 0}, "worldSize: an integer"),
        ({"epoch": "2"}, "epoch: an integer"),
        ({"totalSteps": 2**60}, "totalSteps: an integer"),
        ({"loss": math.nan}, "loss: a finite number"),
        ({"loss": [1]}, "loss: a finite number"),
        ({"samplesPerSecond": -1}, "samplesPerSecond: a finite number"),
        ({"snapshotTime": "2026-01-31T12:00:00"}, "snapshotTime: a time"),
        ({"snapshotTime": "soon"}, "snapshotTime: a time"),
        ({"snapshotTime": 5}, "snapshotTime: a time"),
        ({"beat": -1}, "beat: an integer"),
        ({"slowRank": 0.5}, "slowRank: an integer"),
        ({"slowSeconds": math.inf}, "slowSeconds: a finite number"),
    ],
)
def test_bad_progress_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ProtocolError, match=f"^{message}"):
        Progress.parse({**PROGRESS, "time": "1970-01-01T00:00:00Z", **change})


def test_each_job_has_a_token_of_its_own_that_only_the_key_makes() -> None:
    token = token_for(b"key", "uid-1")
    assert len(token) == 64
    assert len({token, token_for(b"key", "uid-2"), token_for(b"other", "uid-1"), token_digest(token)}) == 4
