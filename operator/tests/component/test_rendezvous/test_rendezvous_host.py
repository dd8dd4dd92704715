"""The rendezvous host as a process, its HTTP side, and the operator's link to it."""

import asyncio
import base64
import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from rendezvous_host import TOKEN, Host, Operator, running_host, wait_for
from torchrun_operator.rendezvous.client import RendezvousLink, RendezvousState, Target, host_source
from torchrun_operator.rendezvous.host import PROBES, unanswered_seconds

AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
TARGET = {"generation": 1, "size": 3, "min": 2, "lastCallSeconds": 5.0, "leavers": ["10.0.0.1"], "close": False}
TARGET |= {"endRound": None, "progressDeadlineSeconds": 20.0, "startDeadlineSeconds": None}
WANTED = Target(
    generation=1, size=3, minimum=2, last_call_seconds=5.0, leavers=("10.0.0.1",), progress_deadline_seconds=20
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with running_host(tmp_path_factory.mktemp("host")) as host:
        yield host


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - much of what is waited for happens in another process
            await asyncio.sleep(0.01)


def _of(link: RendezvousLink) -> RendezvousState:
    assert link.latest is not None
    return link.latest


def raw(host: Host, data: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", host.http_port), timeout=30)
    connection.sendall(data)
    return connection


def test_it_says_how_it_is_to_anybody(shared: Host) -> None:
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
def test_without_the_token_nothing_is_told_or_taken(shared: Host, method: str, path: str, header: str) -> None:
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
    # Above the bound of one client connections are closed at once; below it they are served again.
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
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == changed


def test_workers_are_told_the_deadline(shared: Host) -> None:
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
        # HTTP answers before the store is up, so a target can already be put.
        assert status in {200, 503}
        assert young.authorized("PUT", "/v1/target", TARGET)["target"] == TARGET
        assert young.stop() == 0


def test_it_does_not_start_without_what_it_needs(shared: Host, tmp_path: Path) -> None:
    program = tmp_path / "host.py"
    program.write_text(host_source())

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


async def test_the_link_brings_the_target_and_what_happens(shared: Host) -> None:
    changes: list[tuple[bool, RendezvousState | None]] = []
    async with aiohttp.ClientSession() as session:
        link = RendezvousLink(session, shared.url, TOKEN, lambda: changes.append((link.connected, link.latest)))
        assert (link.latest, link.connected, link.unauthorized) == (None, False, False)
        link.set_target(WANTED)
        await until(lambda: link.latest is not None and link.latest.target == WANTED)
        wanted = WANTED.model_copy(update={"size": 2, "leavers": ()})
        link.set_target(wanted)
        await until(lambda: link.latest is not None and link.latest.target == wanted)
        assert shared.state()["target"]["size"] == 2
        assert link.latest is not None
        assert link.received_at is not None
        async with session.post(shared.url + "/v1/progress", json={"step": 7, "worldSize": 1}) as answer:
            assert answer.status == 200
        await until(lambda: (said := _of(link).progress) is not None and said.step == 7)
        assert len(changes) >= 3
        assert changes[-1] == (True, link.latest)
        await link.aclose()
        assert not link.connected


async def test_the_link_outlives_the_host_and_tells_the_next_one(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession() as session:
        with running_host(tmp_path) as host:
            port, http_port = host.port, host.http_port
            link = RendezvousLink(session, host.url, TOKEN)
            link.set_target(WANTED)
            await until(lambda: link.latest is not None and link.latest.target == WANTED)
            assert link.latest is not None
            first = link.latest.instance
            await loop.run_in_executor(None, host.stop, signal.SIGKILL)
            await until(lambda: not link.connected)
            assert link.latest.instance == first
        with running_host(tmp_path, ready=False, http_port=http_port, port=port):
            await until(lambda: _of(link).instance != first and _of(link).target == WANTED)
            assert link.connected
            await link.aclose()


async def test_the_link_says_that_its_token_is_not_taken(shared: Host) -> None:
    async with aiohttp.ClientSession() as session:
        link = RendezvousLink(session, shared.url, "another")
        await until(lambda: link.unauthorized)
        assert (link.latest, link.connected) == (None, False)
        await link.aclose()


@pytest.mark.parametrize("answer", ["garbage", "endless", "redirect", "error"])
async def test_the_link_believes_no_host(answer: str) -> None:
    asked = 0

    async def respond(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        if answer == "garbage":
            return web.Response(body=b'{"instance": 5}')
        if answer == "redirect":
            raise web.HTTPFound("/elsewhere")
        if answer == "error":
            raise web.HTTPInternalServerError
        stream = web.StreamResponse()
        await stream.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await stream.write(b" " * 65536)
        return stream

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", respond)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as session:
        link = RendezvousLink(session, f"http://127.0.0.1:{runner.addresses[0][1]}", TOKEN)
        await until(lambda: asked >= 2)
        assert (link.latest, link.connected, link.unauthorized) == (None, False, False)
        await link.aclose()
    await runner.cleanup()


async def test_a_link_that_has_failed_can_time_out() -> None:
    """A conversation that ends must not leave its task half cancelled: up to Python 3.11.2, asyncio.timeout, which
    aiohttp uses for connecting, then raises CancelledError in place of TimeoutError, and the link is gone for good.
    """
    counts: list[int] = []

    async def respond(_request: web.Request) -> web.Response:
        task = link._task
        counts.append(task.cancelling())
        if len(counts) % 2:
            return web.Response(body=_STATE)
        raise web.HTTPInternalServerError

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", respond)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as session:
        link = RendezvousLink(session, f"http://127.0.0.1:{runner.addresses[0][1]}", TOKEN)
        await until(lambda: len(counts) >= 5)
        assert set(counts) == {0}
        await link.aclose()
    await runner.cleanup()


_STATE = json.dumps(
    {
        "instance": "aa", "version": 1, "round": 0, "complete": False, "closed": False, "finished": 0,
        "members": [], "waiting": [], "roundsEnded": {"requested": 0, "unrequested": 0}, "lastUnrequested": None,
        "completedAt": None, "target": None, "progress": None,
    }
).encode()  # fmt: skip


def _hostile() -> dict[str, Callable[[Any, str], object]]:
    """What a pod of the job could do to the state in the store, by name."""
    code = base64.b64encode(b"cos\nsystem\n(S'touch executed'\ntR.").decode()
    modern = base64.b64encode(pickle.dumps(Executes())).decode()
    return {
        "code to execute": lambda store, key: store.set(key, modern),
        "code of an old protocol": lambda store, key: store.set(key, code),
        "garbage": lambda store, key: store.set(key, "garbage"),
        "nothing": lambda store, key: store.set(key, ""),
        "8 MB": lambda store, key: store.set(key, "A" * 8_000_000),
        "another thing": lambda store, key: store.set(key, base64.b64encode(pickle.dumps({"round": 1})).decode()),
        "no state any more": lambda store, key: store.delete_key(key),
    }


class Executes:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch executed",)


@pytest.mark.torch
def test_it_restores_the_state_whatever_is_put_in_its_place(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.distributed.elastic.rendezvous import dynamic_rendezvous as torchs

    monkeypatch.chdir(tmp_path)
    store = TCPStore("127.0.0.1", host.port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=10))
    key = f"torch.rendezvous.{host.rendezvous_id}"
    state, node = torchs._RendezvousState(), torchs._NodeDesc("10.0.0.1", 1, 0)
    state.round, state.participants, state.last_heartbeats = 7, {node: 0}, {node: datetime.now(UTC)}
    good = base64.b64encode(pickle.dumps(state))
    store.set(key, good.decode())
    wait_for(lambda: host.state()["waiting"] == ["10.0.0.1"], "the host has read the state")
    for number, (what, do) in enumerate(_hostile().items(), start=1):
        do(store, key)
        wait_for(lambda: store.check([key]) and store.get(key) == good, f"restored after {what}", 30)
        wait_for(lambda at_least=number: host.metrics()["restored_states_total"] >= at_least, "it is counted", 30)  # type: ignore[misc]
    assert len(host.events("state-restored")) == host.metrics()["restored_states_total"]
    assert (host.state()["round"], host.healthy()) == (7, True)
    assert [path.name for path in tmp_path.iterdir() if "executed" in path.name] == []


@pytest.mark.torch
def test_a_rendezvous_that_an_agent_closed_when_it_failed_is_open_again(host: Host) -> None:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.distributed.elastic.rendezvous import dynamic_rendezvous as torchs

    host.want(2, 2)
    store = TCPStore("127.0.0.1", host.port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=10))
    state = torchs._RendezvousState()
    state.closed = True
    store.set(f"torch.rendezvous.{host.rendezvous_id}", base64.b64encode(pickle.dumps(state)).decode())
    wait_for(lambda: host.metrics()["reopened_total"] == 1, "the host opens it again", 30)
    assert host.state()["closed"] is False


def test_it_knows_whether_the_operator_is_there(shared: Host) -> None:
    with Operator(shared):
        wait_for(lambda: shared.metrics()["operator_silence_seconds"] < 1.5, "it hears the operator", 10)
        began = time.monotonic()
        while time.monotonic() - began < 3:
            assert shared.metrics()["operator_silence_seconds"] < 1.5
    wait_for(lambda: shared.metrics()["operator_silence_seconds"] > 5, "it misses the operator", 20)


@pytest.mark.torch
def test_a_state_that_takes_for_ever_to_read_ends_the_process(tmp_path: Path) -> None:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    # A tuple of the one before twice, sixty times: its hash, which a set asks for, takes years.
    tower = pickle.EMPTY_TUPLE + (pickle.DUP + pickle.TUPLE2) * 60
    bomb = pickle.PROTO + b"\x04" + pickle.EMPTY_SET + pickle.MARK + tower + pickle.ADDITEMS + pickle.STOP
    impatient = "import host\nhost.FATAL_SECONDS = 2.0\nhost.main()\n"
    with running_host(tmp_path, main=impatient) as host:
        store = TCPStore("127.0.0.1", host.port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=10))
        store.set(f"torch.rendezvous.{host.rendezvous_id}", base64.b64encode(bomb).decode())
        assert host.process.wait(60) == 1
        assert "in decode" in host.log_path.read_text()


def test_the_kernel_tells_for_how_long_the_other_end_has_acknowledged_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as other:
        port = server.getsockname()[1]
        assert unanswered_seconds(port) == {}
        with (
            socket.create_connection(("127.0.0.1", port)),
            socket.create_connection(("127.0.0.1", other.getsockname()[1])),
            server.accept()[0] as accepted,
            other.accept()[0] as unconcerned,
        ):
            [(address, seconds)] = (unanswered_seconds(port) or {}).items()
            assert address == "127.0.0.1"
            assert 0 <= seconds < 1.5
            probes = [accepted.getsockopt(level, option) for level, option, _ in PROBES]
            assert probes == [value for _, _, value in PROBES]
            assert not unconcerned.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            accepted.sendall(b"still the store's")
        assert unanswered_seconds(port) == {}
    assert unanswered_seconds(port, "/nowhere") is None
