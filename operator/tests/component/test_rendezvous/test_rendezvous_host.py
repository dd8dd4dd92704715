"""The rendezvous host as a process, and its HTTP interface."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rendezvous_host import TOKEN, Host, Operator, host_program, running_host, untimed, wait_for

AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
TARGET = {"generation": 1, "size": 3, "min": 2, "lastCallSeconds": 5.0, "leavers": ["10.0.0.1"], "close": False}
TARGET |= {"endRound": None, "progressDeadlineSeconds": 20.0, "startDeadlineSeconds": None}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with running_host(tmp_path_factory.mktemp("host")) as host:
        yield host


def raw(host: Host, data: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", host.http_port), timeout=30)
    connection.sendall(data)
    return connection


def test_health_and_metrics_need_no_token(shared: Host) -> None:
    assert shared.request("GET", "/healthz") == (200, b"ok\n")
    status, text = shared.request("GET", "/metrics")
    assert status == 200
    assert b"# TYPE torchrun_rendezvous_rounds_total counter\n" in text
    metrics = shared.metrics()
    assert 0 <= metrics.pop("operator_silence_seconds") < 300
    assert metrics == {
        "rounds_total": 0,
        "rounds_alone_total": 0,
        "members": 0,
        "waiting": 0,
        'evictions_total{reason="not wanted"}': 0,
        'evictions_total{reason="replaced"}': 0,
        'evictions_total{reason="disconnected"}': 0,
        'evictions_total{reason="silent"}': 0,
        "reopened_total": 0,
        "restored_states_total": 0,
        "closed": 0,
        "last_round_seconds": 0,
        "seconds_without_step": 0,
        'rounds_ended_total{requested="true"}': 0,
        'rounds_ended_total{requested="false"}': 0,
    }


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/state?after=0"), ("PUT", "/v1/target")])
@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer t\xf6ken"]
)
def test_without_the_token_nothing_is_shown_or_changed(shared: Host, method: str, path: str, header: str) -> None:
    before = shared.state()
    headers = {"Authorization": header} if header else {}
    body = json.dumps({**TARGET, "size": 99}).encode() if method == "PUT" else None
    status, answer = shared.request(method, path, body, headers)
    assert (status, json.loads(answer)) == (401, {"error": "the token of this job is needed"})
    assert shared.state() == before


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/", None, 404),
        ("GET", "/v1/target", None, 404),
        ("PUT", "/v1/state", b"{}", 404),
        ("POST", "/v1/target", b"{}", 404),
        ("DELETE", "/v1/target", None, 501),
        ("GET", "/v1/state?after=x", None, 400),
        ("GET", "/v1/state?timeout=61", None, 400),
        ("GET", "/v1/state?timeout=-1", None, 400),
        ("GET", "/v1/state?timeout=nan", None, 400),
        ("GET", "/v1/state?" + "&".join(["a=1"] * 9), None, 400),
        ("GET", "/v1/state?" + "x" * 70_000, None, 414),
        ("PUT", "/v1/target", b"", 400),
        ("PUT", "/v1/target", b"{", 400),
        ("PUT", "/v1/target", b"[]", 400),
        ("PUT", "/v1/target", b"\xff\xfe\x00", 400),
        ("PUT", "/v1/target", b"{}", 400),
        ("PUT", "/v1/target", b"[" * 100_000, 400),
        ("PUT", "/v1/target", b"1" * 100_000, 400),
        ("PUT", "/v1/target", b" " * ((1 << 20) + 1), 413),
        ("POST", "/v1/progress", b"{}", 400),
        ("POST", "/v1/progress", b'{"step": 1, "worldSize": "many"}', 400),
        ("POST", "/v1/progress", b'{"step": 1, "worldSize": 1, "loss": NaN}', 400),
        ("POST", "/v1/progress", b" " * 65_537, 413),
    ],
)
def test_bad_requests_are_refused(shared: Host, method: str, path: str, body: bytes | None, status: int) -> None:
    before = shared.state()
    assert shared.request(method, path, body, AUTHORIZED)[0] == status
    assert shared.state() == before


@pytest.mark.parametrize(
    "length", ["", "Content-Length: -1\r\n", "Content-Length: 1e3\r\n", "Transfer-Encoding: chunked\r\n"]
)
def test_a_body_of_unknown_length_is_refused(shared: Host, length: str) -> None:
    with raw(shared, f"POST /v1/progress HTTP/1.1\r\nHost: h\r\n{length}\r\n".encode()) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 411 ")


def test_slow_and_greedy_clients_do_not_stop_the_others(shared: Host) -> None:
    half = b"POST /v1/progress HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{"
    slow = [raw(shared, half) for _ in range(20)]
    try:
        assert shared.healthy()
        assert shared.state()["round"] == 0
    finally:
        for connection in slow:
            connection.close()
    # The host closes connections of a client above its limit at once, and serves it again below the limit.
    many = [raw(shared, half) for _ in range(40)]
    try:
        many[-1].settimeout(10)
        assert many[-1].recv(1) == b""
    finally:
        for connection in many:
            connection.close()
    deadline = time.monotonic() + 10
    while not shared.healthy():
        assert time.monotonic() < deadline


def test_a_target_is_echoed_and_taken_once(shared: Host) -> None:
    first = shared.authorized("PUT", "/v1/target", {**TARGET, "leavers": ["b", "a", "b"]})
    again = shared.authorized("PUT", "/v1/target", {**TARGET, "leavers": ["a", "b"]})
    assert first == again
    assert first["target"] == {**TARGET, "leavers": ["a", "b"]}


def test_a_long_poll_ends_with_a_change_or_its_time(shared: Host) -> None:
    state = shared.state()
    began = time.monotonic()
    assert shared.authorized("GET", f"/v1/state?after={state['version']}&timeout=0.3") == state
    assert 0.3 <= time.monotonic() - began < 5
    path = f"/v1/state?after={state['version']}&timeout=60"
    poll = f"GET {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    with raw(shared, poll.encode()) as connection:
        changed = shared.authorized("PUT", "/v1/target", {**TARGET, "generation": state["version"] + 1000})
        connection.settimeout(10)
        answer = b""
        while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
            answer += connection.recv(65536)
    assert untimed(answer.partition(b"\r\n\r\n")[2]) == changed


def test_each_answer_has_the_present_time(shared: Host) -> None:
    before, first, second, after = datetime.now(UTC), shared.answered_at(), shared.answered_at(), datetime.now(UTC)
    tolerance = timedelta(seconds=1)
    assert before - tolerance <= first <= second <= after + tolerance


def test_workers_get_the_deadline(shared: Host) -> None:
    shared.authorized("PUT", "/v1/target", TARGET)
    status, answer = shared.request("POST", "/v1/progress", b'{"step": 1, "worldSize": 1}')
    assert (status, json.loads(answer)) == (200, {"progressDeadlineSeconds": 20.0})


def test_progress_is_shown_but_wakes_the_operator_seldom(shared: Host) -> None:
    before = shared.state()["version"]
    began = time.monotonic()
    for number in range(100):
        document = json.dumps({"step": number, "worldSize": 2, "loss": 0.5}).encode()
        assert shared.request("POST", "/v1/progress", document)[0] == 200
    assert shared.state()["progress"]["step"] == 99
    state = shared.authorized("GET", f"/v1/state?after={before + 1}&timeout=10")
    assert state["progress"]["step"] == 99
    assert state["version"] - before <= 2 + (time.monotonic() - began) / 2


def test_sigterm_ends_it_at_once_even_while_torch_is_loaded(tmp_path: Path) -> None:
    with running_host(tmp_path) as host:
        began = time.monotonic()
        assert host.stop() == 0
        assert time.monotonic() - began < 2
    with running_host(tmp_path, ready=False) as young:
        deadline = time.monotonic() + 60
        status = 0
        while status == 0:
            assert time.monotonic() < deadline
            try:
                status = young.request("GET", "/healthz")[0]
            except OSError:
                continue
        # HTTP answers before the store is up, so the operator can already send a target.
        assert status in {200, 503}
        assert young.authorized("PUT", "/v1/target", TARGET)["target"] == TARGET
        assert young.stop() == 0


def test_it_does_not_start_without_what_it_needs(shared: Host, tmp_path: Path) -> None:
    program = host_program(tmp_path)

    def start(**env: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, str(program)],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    code, said = start(RDZV_ID="x", RDZV_TOKEN_SHA256="short")
    assert (code, said) == (1, "RDZV_TOKEN_SHA256: 64 hexadecimal digits are needed\n")
    code, said = start(RDZV_ID="x", RDZV_TOKEN_SHA256="0" * 64, RDZV_PORT=str(shared.port), RDZV_HTTP_PORT="0")
    assert code == 1
    assert '"event": "store-failed"' in said


def test_it_knows_whether_the_operator_is_there(shared: Host) -> None:
    with Operator(shared):
        wait_for(lambda: shared.metrics()["operator_silence_seconds"] < 1.5, "it hears the operator", 10)
        began = time.monotonic()
        while time.monotonic() - began < 3:
            assert shared.metrics()["operator_silence_seconds"] < 1.5
    wait_for(lambda: shared.metrics()["operator_silence_seconds"] > 5, "it misses the operator", 20)
