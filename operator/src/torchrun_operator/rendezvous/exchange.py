"""HTTP with an untrusted server: whatever it sends, an exchange costs little memory and little time.

A library for HTTP follows the server: through any number of interim answers, headers, chunks and compressed bytes. Here
an answer is one header of limited size and a body of a length that the server names before. The socket is read only
when this side asks for more, and it asks seldom if little comes at a time.
"""

import asyncio
import json
import socket
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlencode

CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 10.0
"""Maximum time from the first byte of an answer to the last one, and to the first one beyond what the request waits."""
_DEAD_PEER = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 11_000}
"""The kernel detects within 11 s that a rendezvous host is gone without closing the connection. A poll waits longer."""
_HEAD_BYTES = 8192
_READ_BYTES = 65536
_QUICK_READS = 32
"""Reads of one answer without a pause in between."""
_READ_PAUSE_SECONDS = 0.02
_OK = 200


class AnswerError(Exception):
    """The answer is not one that a rendezvous host gives."""


class Answer(NamedTuple):
    """The answer to a request."""

    status: int
    body: bytes


class _Head(NamedTuple):
    status: int
    length: int
    closes: bool


def open_socket(family: int) -> socket.socket:
    """Return a socket for a connection to a rendezvous host."""
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in _DEAD_PEER.items():
        if hasattr(socket, name):  # some development systems lack it
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


class Connection:
    """One connection for one request at a time. It opens when it is needed."""

    def __init__(self, address: str, port: int, headers: Mapping[str, str]) -> None:
        """`address` is an IP address. `headers` go with each request."""
        self._to = address, port
        host = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        self._headers = {"Host": host, **headers}
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """Close the connection. The next request opens another."""
        made, self._socket = self._socket, None
        if made is not None:
            made.close()

    async def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        *,
        most_bytes: int,
        wait_seconds: float = 0.0,
        document: Mapping[str, object] | None = None,
    ) -> Answer:
        """Return the answer to a request whose answer may take `wait_seconds`. The body has at most `most_bytes`.

        Raises AnswerError, TimeoutError and OSError.
        """
        kept = False
        try:
            await self._send(method, path + (f"?{urlencode(query)}" if query else ""), document)
            async with asyncio.timeout(wait_seconds + ANSWER_SECONDS) as limit:
                head, body = await self._receive(limit, most_bytes)
            kept = not head.closes
            return Answer(head.status, body)
        finally:
            if not kept:
                self.close()

    async def _send(self, method: str, path: str, document: Mapping[str, object] | None) -> None:
        body = b"" if document is None else json.dumps(document).encode()
        headers = {**self._headers, "Content-Length": str(len(body)), "Content-Type": "application/json"}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        loop = asyncio.get_running_loop()
        if self._socket is None:
            self._socket = open_socket(socket.AF_INET6 if ":" in self._to[0] else socket.AF_INET)
            async with asyncio.timeout(CONNECT_SECONDS):
                await loop.sock_connect(self._socket, self._to)
        async with asyncio.timeout(ANSWER_SECONDS):
            await loop.sock_sendall(self._socket, "\r\n".join(lines).encode() + body)

    async def _receive(self, limit: asyncio.Timeout, most_bytes: int) -> tuple[_Head, bytes]:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        data, head, begins, reads = bytearray(), None, 0, 0
        while head is None or len(data) < begins + head.length:
            if reads >= _QUICK_READS:
                await asyncio.sleep(_READ_PAUSE_SECONDS)
            chunk = await loop.sock_recv(self._socket, _READ_BYTES)
            if not chunk:
                raise ConnectionError("the host has closed the connection")
            if not reads:
                limit.reschedule(min(limit.when() or loop.time(), loop.time() + ANSWER_SECONDS))
            reads += 1
            data += chunk
            if head is None and (end := data.find(b"\r\n\r\n", 0, _HEAD_BYTES)) >= 0:
                head, begins = _head(bytes(data[:end])), end + 4
                if head.length > most_bytes:
                    raise AnswerError(f"a document of {head.length} bytes: at most {most_bytes} are read")
            if head is None and len(data) >= _HEAD_BYTES:
                raise AnswerError(f"more than {_HEAD_BYTES} bytes of headers")
        if len(data) > begins + head.length:
            raise AnswerError("the answer is longer than it says")
        return head, bytes(data[begins:])


def _head(data: bytes) -> _Head:
    """Read the header of an answer. Raises AnswerError."""
    first, *lines = data.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    status = rest[:3]
    if version not in ("HTTP/1.0", "HTTP/1.1") or not _is_number(status) or int(status) < _OK:
        raise AnswerError(f"no HTTP answer: {first[:100]!r}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = headers.get("content-length", "")
    if not _is_number(length) or headers.keys() & {"transfer-encoding", "content-encoding"}:
        raise AnswerError("the answer must be plain bytes of a stated length")
    closes = version == "HTTP/1.0" or headers.get("connection", "").lower() == "close"
    return _Head(int(status), int(length), closes)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= len(str(2**53))
