"""Barrier protocol: node 0 listens, and all nodes connect to it.

Each node sends one line of JSON, its hello. Node 0 answers with the missing ranks whenever they change, and finally
with the message that the barrier is open. Standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

_RETRY_SECONDS = 0.5
_STAYING_RETRY_SECONDS = 5.0
_PROBE_SECONDS = 5.0
_FAREWELL_SECONDS = 10.0
_NOTICE_SECONDS = 30.0
_STATUS_SECONDS = 0.2
_LINE_BYTES = 1 << 16
_PROTOCOL = "torchrun_trainer.barrier/1"


class BarrierError(RuntimeError):
    """A node cannot take part: its rank is taken, the nodes disagree, or another program has the port."""


class BarrierTimeoutError(BarrierError, TimeoutError):
    """Not all arrived in time. ``missing`` holds the ranks that did not; None if node 0 was not reached."""

    def __init__(self, message: str, missing: list[int] | None) -> None:
        super().__init__(message)
        self.missing = missing


@dataclass(frozen=True)
class NodeOptions:
    """What a node has to know: it is ``rank`` of ``num_nodes``, and node 0 listens at ``host`` and ``port``."""

    num_nodes: int
    rank: int
    host: str
    port: int


def listed(kind: str, ranks: list[int]) -> str:
    """Return a text such as ``nodes 2, 5``, with the first twenty numbers."""
    names = ", ".join(map(str, ranks[:20])) + (f" and {len(ranks) - 20} more" if len(ranks) > 20 else "")
    return f"{kind}{'s' if len(ranks) > 1 else ''} {names}"


async def _send(writer: asyncio.StreamWriter, **message: object) -> None:
    """Send a message. The reader of a connection notices if it is gone."""
    with contextlib.suppress(OSError):
        writer.write(json.dumps(message).encode() + b"\n")
        await writer.drain()


async def _receive(reader: asyncio.StreamReader) -> dict[str, Any]:
    """Return the next message, an empty one at the end. Raises ValueError if it is no message."""
    try:
        line = await reader.readline()
    except OSError:
        return {}
    if not line:
        return {}
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("a message is no object")
    return message


@dataclass
class _Arrival:
    """A node that is connected to node 0."""

    host: str
    writer: asyncio.StreamWriter
    answered: asyncio.Event = field(default_factory=asyncio.Event)


class _Host:
    """The side of node 0: keeps the list of the nodes that are here, and opens when it is complete."""

    def __init__(self, num_nodes: int, *, opened: bool) -> None:
        self.num_nodes = num_nodes
        self.opened = opened
        self._here: dict[int, _Arrival] = {}
        self._connections: set[asyncio.StreamWriter] = set()
        self._gone = asyncio.Condition()
        self._changed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends."""
        self._connections.add(writer)
        _keep_alive(writer)
        try:
            hello = await _receive(reader)
            if hello.get("protocol") == _PROTOCOL:
                await self._admit(hello, reader, writer)
            elif hello:
                await _send(writer, refused="this is a barrier of another version")
        except (ValueError, KeyError, TypeError):
            pass  # another kind of program
        except asyncio.CancelledError:
            pass  # the loop ends; streams of Python 3.11 take it for an error
        finally:
            writer.close()
            async with self._gone:
                self._connections.discard(writer)
                self._gone.notify_all()

    async def publish(self) -> None:
        """Send the missing ranks to all nodes whenever they change."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            missing = [rank for rank in range(self.num_nodes) if rank not in self._here]
            if not missing:
                self.opened = True
            answer: dict[str, object] = {"open": True} if self.opened else {"missing": missing}
            for arrival in [*self._here.values()]:
                await _send(arrival.writer, **answer)
            await asyncio.sleep(_STATUS_SECONDS)

    async def farewell(self) -> None:
        """Wait until all connected nodes know that the barrier is open, and have closed their connections."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_SECONDS), self._gone:
                await self._gone.wait_for(lambda: not self._connections)

    async def _admit(self, hello: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rank, arrival = int(hello["rank"]), _Arrival(str(hello["host"]), writer)
        if hello["num_nodes"] != self.num_nodes:
            problem = f"node {rank} ({arrival.host}) waits for {hello['num_nodes']} nodes, node 0 for {self.num_nodes}"
            await _send(writer, refused=f"{problem}: --num-nodes must be the same everywhere")
            return
        if hello["open"]:
            self.opened = True  # the barrier opened when another process was node 0
            self._connections.discard(writer)  # this node stays, so there is no farewell to wait for
        earlier = self._here.get(rank)
        if earlier and earlier.host != arrival.host and not self.opened and await self._answers(earlier):
            problem = f"rank {rank} is taken by {earlier.host}, and {arrival.host} has the same rank"
            await _send(writer, refused=f"{problem}: each node needs a --rank of its own")
            return
        self._here[rank] = arrival
        self._changed.set()
        while message := await _receive(reader):
            if "pong" in message:
                arrival.answered.set()
        if self._here.get(rank) is arrival:
            del self._here[rank]
            self._changed.set()

    async def _answers(self, arrival: _Arrival) -> bool:
        """Ask a node whether it is still there: a host that lost its power closes no connections."""
        arrival.answered.clear()
        await _send(arrival.writer, ping=True)
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                await arrival.answered.wait()
        except TimeoutError:
            return False
        return True


class Node:
    """The side of a node. Node 0 is the host too."""

    def __init__(self, options: NodeOptions, *, opened: bool = False) -> None:
        self.opened = opened
        self._options = options
        self._where = f"{options.host}:{options.port}"
        self._missing: list[int] | None = None
        self._problem = "no answer"

    async def pass_through(self, seconds: float, notice: Callable[[str], object] | None) -> None:
        """Return once the barrier is open, or raise."""
        async with self._host() as host:
            talking = asyncio.create_task(self._talk_until(lambda: self.opened, _RETRY_SECONDS))
            try:
                async with asyncio.timeout(seconds):
                    while not talking.done():
                        await asyncio.wait({talking}, timeout=_NOTICE_SECONDS)
                        if notice and not talking.done():
                            notice(f"waiting: {self._state()}")
            except TimeoutError:
                raise BarrierTimeoutError(f"timed out after {seconds:g} s: {self._state()}", self._missing) from None
            finally:
                talking.cancel()
            await talking
            if host is not None:
                await host.farewell()

    async def stay(self) -> None:
        """Answer every node that the barrier is open, until cancelled."""
        async with self._host() as host:
            if host is not None:
                await asyncio.Event().wait()
            elif self._options.rank != 0:  # otherwise an earlier process of this node stays
                await self._talk_until(lambda: False, _STAYING_RETRY_SECONDS)

    @contextlib.asynccontextmanager
    async def _host(self) -> AsyncIterator[_Host | None]:
        """Be the host if this is node 0, unless an earlier process of it still is."""
        if self._options.rank != 0:
            yield None
            return
        host = _Host(self._options.num_nodes, opened=self.opened)
        try:
            server = await asyncio.start_server(host.serve, None, self._options.port, limit=_LINE_BYTES)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise BarrierError(f"node 0 cannot listen on port {self._options.port}: {error}") from error
            yield None
            return
        publishing = asyncio.create_task(host.publish())
        try:
            yield host
        finally:
            publishing.cancel()
            server.close()

    def _state(self) -> str:
        if self._missing is None:
            return f"node 0 cannot be reached at {self._where}: {self._problem}"
        return f"{listed('node', self._missing)} of {self._options.num_nodes} did not come to {self._where}"

    async def _talk_until(self, done: Callable[[], bool], pause: float) -> None:
        """Talk to node 0, and reconnect whenever the connection ends."""
        target = "localhost" if self._options.rank == 0 else self._options.host
        while not done():
            try:
                reader, writer = await asyncio.open_connection(target, self._options.port, limit=_LINE_BYTES)
            except OSError as error:
                self._problem = str(error)
            else:
                _keep_alive(writer)
                try:
                    await self._talk(done, reader, writer)
                finally:
                    writer.close()
            if not done():
                await asyncio.sleep(pause)

    async def _talk(self, done: Callable[[], bool], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        identity = f"{socket.gethostname()}, process {os.getpid()}"
        hello = {"rank": self._options.rank, "num_nodes": self._options.num_nodes, "open": self.opened}
        await _send(writer, protocol=_PROTOCOL, host=identity, **hello)
        while not done():
            try:
                message = await _receive(reader)
            except ValueError as error:
                raise BarrierError(f"{self._where} is no barrier: {error}") from error
            if not message:
                self._problem = "it has closed the connection"
                return
            if "refused" in message:
                raise BarrierError(message["refused"])
            if "ping" in message:
                await _send(writer, pong=True)
            self._missing = message.get("missing", self._missing)
            self.opened |= "open" in message


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    """Have the kernel notice within 20 s that the other host is gone."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
