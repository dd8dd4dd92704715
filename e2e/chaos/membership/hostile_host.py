"""A rendezvous host that answers every request at once: with news, with megabytes, with nonsense, or never to the end.

It changes its behavior every few seconds. It runs in the image of a job, with the standard library only.
"""

import itertools
import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_PHASE_SECONDS = 4.0
_HUGE_BYTES = 16 * 2**20
_DEPTH = 100_000
_versions = itertools.count(1)


def news() -> bytes:
    """Return a valid state that differs from all others."""
    number = next(_versions)
    known = {"complete": False, "closed": False, "members": [], "waiting": [], "target": None, "completedAt": None}
    ends = {"roundsEnded": {"requested": number, "unrequested": 0}, "lastUnrequested": None, "progress": None}
    return json.dumps({"instance": "ab", "version": number, "round": number, **known, **ends}).encode()


class Host(BaseHTTPRequestHandler):
    """Answers without reading more than it must."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer as the phase says."""
        phase = int(time.monotonic() / _PHASE_SECONDS) % 4
        body = (news(), b'"' + b"x" * _HUGE_BYTES + b'"', b"[" * _DEPTH, news())[phase]
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if phase == 3:
            for byte in body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(1.0)
        self.wfile.write(body)

    def do_PUT(self) -> None:
        """Answer without reading the target."""
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


if __name__ == "__main__":
    ThreadingHTTPServer(("", int(os.environ.get("RDZV_HTTP_PORT", "29401"))), Host).serve_forever()
