"""A proxy in front of an HTTP server that makes requests fail: by chance, repeatable by its seed."""

import contextlib
import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

_BLOCK: Final = 1 << 16
FAULTS: Final = ("error", "full", "slow-down", "refused", "cut-request", "cut-answer", "lost-answer", "slow")
"""What happens to a request. An answer that is lost leaves its effect at the server."""
_STATUS: Final = {
    "error": "500 Internal Server Error",
    "full": "507 Insufficient Storage",
    "slow-down": "503 Slow Down",
}


@dataclass
class FaultProxy:
    """Forwards connections with one request each to a server, and spoils a share of them."""

    target: tuple[str, int]
    seed: int
    share: float = 0.0
    kinds: tuple[str, ...] = FAULTS
    happened: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._lock = threading.Lock()
        self.requests = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """Serve while the block runs. Yields the URL."""
        threading.Thread(target=self._accept, daemon=True).start()
        try:
            yield f"http://{self.address[0]}:{self.address[1]}"
        finally:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _next(self) -> str:
        with self._lock:
            self.requests += 1
            if self._chance.random() >= self.share:
                return ""
            fault = self._chance.choice(self.kinds)
            self.happened[fault] += 1
            return fault

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, ValueError):
            client.settimeout(60)
            fault = self._next()
            if fault == "refused":
                return
            head, rest = _head(client)
            length = _length(head)
            if fault in _STATUS:
                _discard(client, length - len(rest))
                client.sendall(f"HTTP/1.1 {_STATUS[fault]}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
                return
            with socket.create_connection(self.target, timeout=60) as server:
                server.sendall(_closing(head))
                sent = self._forward_body(client, server, rest, length, cut=fault == "cut-request")
                if not sent:
                    return
                self._answer(server, client, fault)

    def _forward_body(
        self, client: socket.socket, server: socket.socket, rest: bytes, length: int, *, cut: bool
    ) -> bool:
        """Send the body of the request on. Return False if it was cut."""
        left = length - len(rest)
        if cut:
            server.sendall(rest[: len(rest) // 2])
            return False
        server.sendall(rest)
        while left > 0:
            block = client.recv(min(_BLOCK, left))
            if not block:
                return False
            server.sendall(block)
            left -= len(block)
        return True

    def _answer(self, server: socket.socket, client: socket.socket, fault: str) -> None:
        first = server.recv(_BLOCK)
        if fault == "lost-answer":
            return
        if fault == "cut-answer":
            client.sendall(first[: max(1, len(first) // 2)])
            return
        if fault == "slow":
            for start in range(0, min(len(first), 200), 20):
                client.sendall(first[start : start + 20])
                threading.Event().wait(0.002)
            first = first[200:]
        while first:
            client.sendall(first)
            first = server.recv(_BLOCK)


def _head(client: socket.socket) -> tuple[bytes, bytes]:
    """Return the head of a request, and the beginning of its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        block = client.recv(_BLOCK)
        if not block:
            raise ValueError("no request")
        data += block
    head, _, rest = data.partition(b"\r\n\r\n")
    if b"expect: 100-continue" in head.lower():
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    return head, rest


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _closing(head: bytes) -> bytes:
    """Return the head of a request whose connection ends with the answer."""
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"connection:", b"expect:"))]
    return b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n"


def _discard(client: socket.socket, count: int) -> None:
    while count > 0:
        block = client.recv(min(_BLOCK, count))
        if not block:
            return
        count -= len(block)
