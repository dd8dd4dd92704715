"""A transport of the command line without a network: it records requests, and answers as it is told."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torchrun_cli.cluster.client import Client
from torchrun_cli.cluster.kubeconfig import Access
from torchrun_cli.cluster.transport import UnreachableError


@dataclass
class Reply:
    """An answer: its status, its body in pieces, and whether the connection breaks after them."""

    status: int = 200
    pieces: Sequence[bytes] = ()
    headers: dict[str, str] = field(default_factory=dict)
    breaks: bool = False
    closed: bool = False

    def header(self, name: str) -> str | None:
        return self.headers.get(name)

    def chunks(self) -> Iterator[bytes]:
        yield from self.pieces
        if self.breaks:
            raise UnreachableError("the connection to the API server broke: reset")

    def close(self) -> None:
        self.closed = True


def said(document: Any, status: int = 200, **headers: str) -> Reply:
    """Return an answer with a JSON document."""
    return Reply(
        status, [json.dumps(document).encode()], {key.replace("_", "-"): text for key, text in headers.items()}
    )


def refused(status: int, reason: str, message: str, **headers: str) -> Reply:
    """Return an answer of the API server that refuses."""
    return said({"kind": "Status", "reason": reason, "message": message, "code": status}, status, **headers)


def stream(*documents: Any, breaks: bool = False) -> Reply:
    """Return an answer with a JSON document per line, as a watch."""
    return Reply(200, [json.dumps(each).encode() + b"\n" for each in documents], breaks=breaks)


@dataclass
class Script:
    """Gives the replies one after the other. After the last one, each request is an error."""

    replies: list[Reply | Exception]
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    """Method, path with its query, and body of each request."""
    kinds: list[str] = field(default_factory=list)
    renewable: bool = False

    def send(
        self,
        method: str,
        path: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        seconds: float | None = 30.0,
    ) -> Reply:
        del seconds
        self.requests.append((method, path, json.loads(body) if body is not None else None))
        self.kinds.append(dict(headers).get("Content-Type", ""))
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def renew(self) -> bool:
        return self.renewable


def scripted(*replies: Reply | Exception, namespace: str = "ml") -> tuple[Client, Script]:
    """Return a client with such a transport. Its pauses take no time."""
    script = Script(list(replies))
    access = Access("https://api.example.com:6443", namespace)
    return Client(access, script, warn=lambda _: None, sleep=lambda _: None), script
