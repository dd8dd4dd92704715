"""HTTP with the API server. The standard library has all that is necessary, and starts faster than others."""

import os
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Final, Protocol
from urllib.parse import urlsplit

from torchrun_cli.cluster.credentials import Credentials
from torchrun_cli.cluster.kubeconfig import Access
from torchrun_cli.cluster.proxies import find_proxy
from torchrun_cli.errors import CliError, Exit

_CONNECT_SECONDS: Final = 10.0
_CHUNK: Final = 64 * 1024
_IDLE_CONNECTIONS: Final = 4
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""Seconds, seconds and a number: a stream without news notices within a minute that the server is gone."""


class UnreachableError(CliError):
    """The API server did not answer, or the connection broke."""


class Answer(Protocol):
    """An answer whose body comes in pieces."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    def header(self, name: str) -> str | None:
        """Return the values of a header, joined by commas. None: the answer has no such header."""

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as it comes. Raises UnreachableError if the connection breaks."""

    def close(self) -> None:
        """Release the connection."""


class Transport(Protocol):
    """Sends requests to one server."""

    def send(
        self,
        method: str,
        path: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        seconds: float | None = 30.0,
    ) -> Answer:
        """Send a request and return its answer once the headers are there.

        ``seconds`` limits each wait for data; None: no limit. Raises UnreachableError.
        """

    def renew(self) -> bool:
        """Drop the credentials that were refused. Return whether there may be newer ones."""


class HttpTransport:
    """Connections to the server of an access. Threads may share it: each request has a connection of its own."""

    def __init__(self, access: Access, env: Mapping[str, str] = os.environ) -> None:
        parts = urlsplit(access.server)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CliError(f"the server of the context {access.context!r} is no URL: {access.server!r}", Exit.USAGE)
        self._access = access
        self._host, self._prefix = parts.hostname, parts.path.rstrip("/")
        self._secure = parts.scheme == "https"
        self._port = parts.port or (443 if self._secure else 80)
        self._proxy = find_proxy(access.server, access.proxy, env)
        self._credentials = Credentials(access, env)
        self._tls: ssl.SSLContext | None = None
        self._idle: list[HTTPConnection] = []
        self._lock = threading.Lock()

    def send(
        self,
        method: str,
        path: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        seconds: float | None = 30.0,
    ) -> Answer:
        """See Transport.send. A kept connection that the server has closed is replaced; no POST is sent on one."""
        everything = [*headers, *self._credentials.headers()]
        while method != "POST" and (kept := self._take()) is not None:
            try:
                return self._exchange(kept, method, path, everything, body, seconds)
            except (OSError, HTTPException):
                kept.close()
        connection = None
        try:
            connection = self._connect()
            return self._exchange(connection, method, path, everything, body, seconds)
        except (OSError, HTTPException) as error:
            if connection is not None:
                connection.close()
            raise UnreachableError(f"cannot reach the API server {self._access.server}: {_words(error)}") from error

    def renew(self) -> bool:
        """See Transport.renew."""
        self._tls = None
        self.close()
        return self._credentials.renewed()

    def close(self) -> None:
        """Close the kept connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def release(self, connection: HTTPConnection) -> None:
        """Keep a connection for the next request, or close it."""
        with self._lock:
            if len(self._idle) < _IDLE_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()

    def _take(self) -> HTTPConnection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _connect(self) -> HTTPConnection:
        with self._lock:
            if self._secure and self._tls is None:
                self._tls = self._credentials.tls()
        host, port = (self._proxy.host, self._proxy.port) if self._proxy else (self._host, self._port)
        connection = _Connection(host, port, self._tls, self._access.tls_server_name or self._host)
        if self._proxy is not None:
            connection.set_tunnel(self._host, self._port, self._proxy.headers)
        connection.connect()
        return connection

    def _exchange(
        self,
        connection: HTTPConnection,
        method: str,
        path: str,
        headers: Sequence[tuple[str, str]],
        body: bytes | None,
        seconds: float | None,
    ) -> Answer:
        connection.sock.settimeout(seconds)
        connection.putrequest(method, f"{self._prefix}{path}", skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        return _HttpAnswer(self, connection, connection.getresponse())


class _Connection(HTTPConnection):
    """A connection with the TLS settings and the server name of the kubeconfig."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, server_name: str) -> None:
        super().__init__(host, port, timeout=_CONNECT_SECONDS)
        self._settings, self._server_name = tls, server_name

    def connect(self) -> None:
        """Connect, through the proxy if there is one."""
        super().connect()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                self.sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if self._settings is not None:
            self.sock = self._settings.wrap_socket(self.sock, server_hostname=self._server_name)


class _HttpAnswer:
    def __init__(self, owner: HttpTransport, connection: HTTPConnection, answer: HTTPResponse) -> None:
        self._owner, self._connection, self._answer = owner, connection, answer
        self._complete = False

    @property
    def status(self) -> int:
        return self._answer.status

    def header(self, name: str) -> str | None:
        values = self._answer.headers.get_all(name)
        return ", ".join(values) if values else None

    def chunks(self) -> Iterator[bytes]:
        try:
            while chunk := self._answer.read1(_CHUNK):
                yield chunk
        except (OSError, HTTPException, ValueError) as error:
            raise UnreachableError(f"the connection to the API server broke: {_words(error)}") from error
        self._complete = True

    def close(self) -> None:
        if self._connection.sock is None:
            return
        if self._complete and not self._answer.will_close:
            self._answer.close()
            self._owner.release(self._connection)
        else:
            self._connection.close()
            self._answer.close()


def _words(error: Exception) -> str:
    """Return the reason of a failed connection, without the codes and names of libraries."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
