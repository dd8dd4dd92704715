"""A kubelet that only serves logs: the real API server passes requests for logs on to it."""

import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class Kubelet:
    """What the kubelet serves, and what it was asked."""

    port: int = 0
    answers: list[list[str]] = field(default_factory=list)
    """The lines of each answer in turn. The connection breaks after the last line of an answer that ends with "CUT"."""
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """The path and the query of each request."""


@contextmanager
def running_kubelet(directory: Path) -> Iterator[Kubelet]:
    """Serve logs on a port of the loopback interface, with a certificate of its own."""
    key, certificate = directory / "kubelet.key", directory / "kubelet.crt"
    names = ["-subj", "/CN=kubelet", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *names]
    subprocess.run([*made, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    found = Kubelet()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(found)) as server:
        server.daemon_threads = True
        server.socket = context.wrap_socket(server.socket, server_side=True)
        found.port = server.server_port
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


def _handler(kubelet: Kubelet) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            kubelet.requests.append((parts.path, {key: each[0] for key, each in parse_qs(parts.query).items()}))
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for line in kubelet.answers.pop(0) if kubelet.answers else ():
                if line == "CUT":
                    self.close_connection = True
                    return
                body = f"{line}\n".encode()
                self.wfile.write(f"{len(body):x}\r\n".encode() + body + b"\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *_: Any) -> None: ...

    return Handler
