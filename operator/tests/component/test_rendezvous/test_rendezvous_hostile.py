"""A rendezvous host runs the image of the user, so it may answer anything. That costs the operator little."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchrun_operator.allowance import Allowance
from torchrun_operator.rendezvous import client, exchange
from torchrun_operator.rendezvous.client import RendezvousLink
from torchrun_operator.rendezvous.exchange import Answer, AnswerError, Connection

MOST = 1000
Behave = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(behave: Behave) -> AsyncIterator[int]:
    """Serve each connection so inside the block; yields the port."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await behave(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def saying(answer: bytes) -> Behave:
    """Answer each request with these bytes, and end the connection."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    return behave


async def asked(port: int) -> Answer | str:
    """Return the answer to a request, or the error."""
    connection = Connection("127.0.0.1", port, {})
    try:
        return await connection.request("GET", "/v1/state", {"after": "0"}, most_bytes=MOST)
    except (AnswerError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()


BIG = "AnswerError: more than 8192 bytes of headers"
PLAIN = "AnswerError: the answer must be plain bytes of a stated length"
ENDED = "ConnectionError: the host has closed the connection"


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Answer(200, b"{}")),
        (b"HTTP/1.1 204\r\ncontent-length: 0\r\n\r\n", Answer(204, b"")),
        (b"HTTP/1.0 401 no\r\nContent-Length: 1\r\n\r\nx", Answer(401, b"x")),
        (b"", ENDED),
        (b"HTTP/1.1 200 OK\r\n", ENDED),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", ENDED),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{}", "AnswerError: the answer is longer than it says"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + b" " * 1001,
            "AnswerError: a document of 1001 bytes: at most 1000 are read",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 16000000\r\n\r\n",
            "AnswerError: a document of 16000000 bytes: at most 1000 are read",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", PLAIN),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", PLAIN),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", PLAIN),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}", PLAIN),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", PLAIN),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 9, "AnswerError: no HTTP answer: 'HTTP/1.1 100 Continue'"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"a" * 100_000, BIG),
        (b"HTTP/1.1 200 OK\r\n" + b"A: a\r\n" * 100_000, BIG),
        (b"\x00\xff" * 8192, BIG),
        (b"\x00\xff\r\n\r\n", "AnswerError: no HTTP answer: '\\x00ÿ'"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "AnswerError: no HTTP answer: 'SSH-2.0-OpenSSH'"),
    ],
)
async def test_an_exchange_reads_one_small_answer_and_no_other(answer: bytes, outcome: Answer | str) -> None:
    async with serving(saying(answer)) as port:
        assert await asked(port) == outcome


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300) | st.builds(bytes.__add__, st.just(b"HTTP/1.1 200 OK\r\n"), st.binary(max_size=300)))
def test_any_bytes_are_an_answer_or_an_error(data: bytes) -> None:
    async def check() -> None:
        async with serving(saying(data)) as port:
            found = await asked(port)
        assert isinstance(found, str) or len(found.body) <= MOST

    asyncio.run(check())


async def _drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    for byte in itertools.cycle(b"H"):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.02)


async def test_an_answer_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "ANSWER_SECONDS", 0.3)
    async with serving(_drip) as port:
        connection = Connection("127.0.0.1", port, {})
        with pytest.raises(TimeoutError):
            await connection.request("GET", "/", {}, most_bytes=MOST, wait_seconds=3600)


async def test_a_silent_host_may_take_as_long_as_the_request_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "ANSWER_SECONDS", 0.1)

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.3)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    async with serving(late) as port:
        connection = Connection("127.0.0.1", port, {})
        assert await connection.request("GET", "/", {}, most_bytes=MOST, wait_seconds=5) == Answer(200, b"{}")
        connection.close()
        with pytest.raises(TimeoutError):
            await connection.request("GET", "/", {}, most_bytes=MOST)


async def test_many_small_packets_cost_few_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    async def packets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
        for _ in range(5000):
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0)

    loop, reads = asyncio.get_running_loop(), 0
    receive = loop.sock_recv

    def counted(*arguments: object) -> Awaitable[bytes]:
        nonlocal reads
        reads += 1
        return receive(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "sock_recv", counted)
    monkeypatch.setattr(exchange, "_READ_PAUSE_SECONDS", 0.2)
    async with serving(packets) as port:
        connection, began = Connection("127.0.0.1", port, {}), loop.time()
        answer = await connection.request("GET", "/", {}, most_bytes=5000)
        connection.close()
    assert answer == Answer(200, b" " * 5000)
    assert reads <= exchange._QUICK_READS + 1 + (loop.time() - began) / 0.2


@dataclass
class Eager:
    """A host that answers each request at once, with news each time."""

    document: dict[str, object] = field(default_factory=dict)
    versions: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    answers: int = 0

    async def behave(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection."""
        while True:
            await reader.readuntil(b"\r\n\r\n")
            self.answers += 1
            body = json.dumps({**_STATE, **self.document, "version": next(self.versions)}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()


@pytest.mark.parametrize(
    ("document", "seconds_each"),
    [
        ({}, 0.05),
        ({"missing": ["10.0.0.1"] * 100, "ignored": " " * 150_000}, 3 * 0.05),  # costs two requests more
        ({"complete": "maybe"}, 0.05),  # wrong, so the link connects again each time
    ],
    ids=["news", "large", "wrong"],
)
async def test_a_host_that_always_answers_is_asked_seldom(
    document: dict[str, object], seconds_each: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "REQUESTS", Allowance(burst=5, seconds=0.05))
    monkeypatch.setattr(client, "BACKOFF_SECONDS", (0.0, 0.0))
    host, loop, changes = Eager(document), asyncio.get_running_loop(), 0

    def changed() -> None:
        nonlocal changes
        changes += 1

    async with serving(host.behave) as port:
        began = loop.time()
        link = RendezvousLink("127.0.0.1", port, "token", changed)
        link.nodes = 1000
        async with asyncio.timeout(60):
            while host.answers < 25:  # noqa: ASYNC110 - the answers are what is waited for
                await asyncio.sleep(0.01)
        assert loop.time() - began >= (25 - 5 - 2) * seconds_each
        assert changes <= host.answers
        assert link.connected is (document.get("complete") is None)
        await link.aclose()


@pytest.mark.parametrize(
    ("nodes", "addresses", "connected"), [(0, 64, True), (0, 65, False), (2, 68, True), (2, 69, False)]
)
async def test_a_host_names_no_more_nodes_than_the_job_may_have(nodes: int, addresses: int, connected: bool) -> None:
    host = Eager({"waiting": [f"10.0.0.{index}" for index in range(addresses)]})
    async with serving(host.behave) as port:
        link = RendezvousLink("127.0.0.1", port, "token")
        link.nodes = nodes
        async with asyncio.timeout(60):
            while host.answers < 2:  # noqa: ASYNC110 - the answers are what is waited for
                await asyncio.sleep(0.01)
        assert (link.connected, link.latest is not None) == (connected, connected)
        await link.aclose()


async def test_wrong_answers_are_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    host = Eager({"round": "first"})
    async with serving(host.behave) as port:
        link = RendezvousLink("127.0.0.1", port, "token")
        async with asyncio.timeout(60):
            while host.answers < 3:  # noqa: ASYNC110 - the answers are what is waited for
                await asyncio.sleep(0.01)
        await link.aclose()
    problem = "bad state document: round: an integer from 0 to 2147483648 is needed"
    assert [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"] == [
        f"the rendezvous host at 127.0.0.1:{port} gives a wrong answer: {problem}"
    ]


_STATE: dict[str, object] = {
    "instance": "aa", "version": 1, "round": 0, "complete": False, "closed": False, "finished": 0,
    "members": [], "waiting": [], "roundsEnded": {"requested": 0, "unrequested": 0}, "lastUnrequested": None,
    "completedAt": None, "target": None, "progress": None,
}  # fmt: skip
