"""The HTTP interface: health and metrics without a token, progress for workers, state and target for the operator."""

from __future__ import annotations

import hashlib
import hmac
import json
import select
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from torchrun_rendezvous import clock
from torchrun_rendezvous.board import Board, NotReadyError
from torchrun_rendezvous.documents import time_of, write_time
from torchrun_rendezvous.logs import log
from torchrun_rendezvous.protocol import Progress, ProtocolError, RendezvousState, Target

TARGET_BYTES, PROGRESS_BYTES = 1 << 20, 64 << 10
MAX_CONNECTIONS, MAX_CONNECTIONS_PER_CLIENT = 256, 32
POLL_SECONDS = 60.0
KEEP_ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 3),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
Request = socket.socket | tuple[bytes, socket.socket]


class RequestError(Exception):
    """A request that is answered with a status above 399."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Server(ThreadingHTTPServer):
    """A thread per connection, with a limit for all clients together and for each client."""

    daemon_threads = True
    request_queue_size = 128
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def __init__(self, port: int, board: Board, digest: str) -> None:
        self.board, self.digest = board, digest
        self._lock = threading.Lock()
        self._clients: Counter[str] = Counter()
        super().__init__(("", port), Handler)

    def server_bind(self) -> None:
        """Listen for IPv4 and IPv6 alike; the base class would look up the host's name, which can take long."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def verify_request(self, request: Request, client_address: tuple[str, int]) -> bool:
        """Close connections above the limits."""
        client = client_address[0]
        with self._lock:
            if sum(self._clients.values()) >= MAX_CONNECTIONS or self._clients[client] >= MAX_CONNECTIONS_PER_CLIENT:
                return False
            self._clients[client] += 1
        return True

    def process_request_thread(self, request: Request, client_address: tuple[str, int]) -> None:
        """Serve a connection, and count it while it lasts."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            client = client_address[0]
            with self._lock:
                self._clients[client] -= 1
                if not self._clients[client]:
                    del self._clients[client]

    def handle_error(self, request: Request, client_address: tuple[str, int]) -> None:
        """Log every failure except that of a client that closed the connection."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            log({"event": "request-failed", "error": repr(error)})


class Handler(BaseHTTPRequestHandler):
    """The endpoints."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "torchrun-rendezvous", ""
    timeout = 20  # seconds without a byte, longer than clients keep idle connections
    disable_nagle_algorithm = True
    server: Server

    def setup(self) -> None:
        """Let the kernel detect within 9 s that a waiting client is gone."""
        super().setup()
        for level, option, value in KEEP_ALIVE:
            self.connection.setsockopt(level, option, value)

    def do_GET(self) -> None:
        """Answer /healthz, /metrics and /v1/state."""
        self._serve({"/healthz": self._health, "/metrics": self._metrics, "/v1/state": self._state})

    def do_PUT(self) -> None:
        """Answer /v1/target."""
        self._serve({"/v1/target": self._target})

    def do_POST(self) -> None:
        """Answer /v1/progress."""
        self._serve({"/v1/progress": self._progress})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log no requests; their effects are logged."""

    def _serve(self, routes: Mapping[str, Callable[[], None]]) -> None:
        try:
            route = routes.get(urlsplit(self.path).path)
            if route is None:
                raise RequestError(404, "no such page")
            route()
        except (RequestError, ProtocolError, NotReadyError) as error:
            self.close_connection = True  # the body may not have been read
            status = 503 if isinstance(error, NotReadyError) else 400
            self._json(error.status if isinstance(error, RequestError) else status, {"error": str(error)})

    def _health(self) -> None:
        up = self.server.board.healthy()
        self._send(200 if up else 503, "text/plain; charset=utf-8", b"ok\n" if up else b"the store is not up\n")

    def _metrics(self) -> None:
        self._send(200, "text/plain; version=0.0.4; charset=utf-8", self.server.board.metrics().encode())

    def _state(self) -> None:
        self._authenticate()
        try:
            query = parse_qs(urlsplit(self.path).query, max_num_fields=8)
            after, timeout = int(query.get("after", ["0"])[-1][:20]), float(query.get("timeout", ["0"])[-1][:20])
        except ValueError:
            raise RequestError(400, "after and timeout: numbers are needed") from None
        if not 0 <= timeout <= POLL_SECONDS:
            raise RequestError(400, f"timeout: 0 to {POLL_SECONDS:g} seconds")
        self._answer(self.server.board.wait(after, timeout, self._connected))

    def _connected(self) -> bool:
        """Whether the client is still there: it has not closed the connection."""
        watch = select.poll()
        watch.register(self.connection, select.POLLRDHUP)
        return not watch.poll(0)

    def _target(self) -> None:
        self._authenticate()
        self._answer(self.server.board.put(Target.parse(self._document(TARGET_BYTES))))

    def _answer(self, state: RendezvousState) -> None:
        self._json(200, replace(state, time=time_of(clock.now())).document())

    def _progress(self) -> None:
        document = {**self._document(PROGRESS_BYTES), "time": write_time(time_of(clock.now()))}
        self._json(200, self.server.board.report(Progress.parse(document)))

    def _authenticate(self) -> None:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        presented = hashlib.sha256(token.strip().encode()).hexdigest()
        if scheme.lower() != "bearer" or not hmac.compare_digest(presented, self.server.digest):
            raise RequestError(401, "the token of this job is needed")

    def _document(self, limit: int) -> dict[str, object]:
        text = self.headers.get("Content-Length", "")
        if not text.isascii() or not text.isdigit() or len(text) > 12 or "Transfer-Encoding" in self.headers:
            raise RequestError(411, "Content-Length is needed")
        if int(text) > limit:
            self.rfile.read(min(int(text), 2 * TARGET_BYTES))  # or most clients would fail to send, and see no answer
            raise RequestError(413, f"at most {limit} bytes")
        try:
            document = json.loads(self.rfile.read(int(text)))
        except (ValueError, RecursionError):
            raise RequestError(400, "the body is not JSON") from None
        if not isinstance(document, dict):
            raise RequestError(400, "the body is not a JSON object")
        return document

    def _json(self, status: int, document: Mapping[str, object]) -> None:
        self._send(status, "application/json", json.dumps(document).encode())

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
