"""Rendezvous hosts, played on addresses of the loopback interface: good ones, and what a hostile image may do."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Behavior = Literal["eager", "flapping", "huge", "drip", "nested", "chunks"]
BEHAVIORS: tuple[Behavior, ...] = get_args(Behavior)
"""eager: news at once, each time. flapping: another process, another round and more failures each time. huge: 16 MB.
drip: a byte a second. nested: 60 KB of brackets. chunks: a body without end.
"""
PORT = 29401
_INSTANCE = "%016x"


@dataclass
class Host:
    """The host of one job. It is good until it gets a behavior."""

    address: str
    behavior: Behavior | None = None
    members: tuple[str, ...] = ()
    target: dict[str, Any] | None = None
    version: int = 1
    round: int = 1
    answers: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def show(self, members: tuple[str, ...]) -> None:
        """Form another round with these addresses."""
        if members != self.members:
            self.members, self.round = members, self.round + 1
            self.bump()

    def bump(self) -> None:
        """Answer the polls that wait."""
        self.version += 1
        self.changed.set()
        self.changed = asyncio.Event()

    def state(self, **changes: object) -> bytes:
        """Return the state document."""
        complete = self.target is not None and len(self.members) == self.target["size"]
        members = [{"address": address, "rank": rank} for rank, address in enumerate(self.members)]
        state = {
            "instance": "aa", "version": self.version, "round": self.round, "complete": complete, "closed": False,
            "finished": 0, "members": members if complete else [], "waiting": [] if complete else list(self.members),
            "silent": [], "roundsEnded": {"requested": 0, "unrequested": 0}, "lastUnrequested": None,
            "completedAt": None, "target": self.target, "progress": None,
        }  # fmt: skip
        return json.dumps({**state, **changes}).encode()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection until it ends."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = head.partition("content-length:")[2].partition("\r\n")[0].strip()
                body = await reader.readexactly(int(length or 0))
                self.answers += 1
                if head.startswith("put") and json.loads(body) != self.target:
                    self.target = json.loads(body)
                    self.bump()
                if self.behavior is None:
                    await self._answer(head, writer)
                else:
                    await self._misbehave(self.behavior, writer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, head: str, writer: asyncio.StreamWriter) -> None:
        after = int(head.partition("after=")[2].split("&")[0].split(" ")[0] or 0)
        if head.startswith("get") and after >= self.version and self.behavior is None:
            await asyncio.wait([asyncio.ensure_future(self.changed.wait())], timeout=20)
        _send(writer, self.state())

    async def _misbehave(self, behavior: Behavior, writer: asyncio.StreamWriter) -> None:
        number = next(self.numbers)
        if behavior == "eager":
            _send(writer, self.state(version=2**40 + number, progress=_progress(number)))
        elif behavior == "flapping":
            failures = {"requested": number, "unrequested": 2**31 - number % 2}
            last = {"round": number, "addresses": list(self.members), "time": "2026-01-31T12:00:00Z"}
            flaps = {
                "instance": _INSTANCE % number,
                "complete": number % 2 == 0,
                "round": number,
                "waiting": ["x"] * 60,
            }
            _send(writer, self.state(**flaps, roundsEnded=failures, lastUnrequested=last, silent=["y"] * 60))
        elif behavior == "huge":
            _send(writer, b"[" + b" " * (16 << 20) + b"]")
        elif behavior == "drip":
            for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + b" " * 60_000:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(1)
        elif behavior == "nested":
            _send(writer, b"[" * 60_000)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"1\r\n \r\n" * 10_000)
                await writer.drain()


def _progress(number: int) -> dict[str, object]:
    return {"step": number, "loss": 1e308 / number, "worldSize": 2, "time": "2026-01-31T12:00:00Z"}


def _send(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body))
    writer.write(body)


@asynccontextmanager
async def serving(hosts: list[Host]) -> AsyncIterator[None]:
    """Serve all hosts inside the block."""
    servers = [await asyncio.start_server(host.serve, host.address, PORT) for host in hosts]
    try:
        yield
    finally:
        for server in servers:
            server.close()
