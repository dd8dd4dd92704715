"""An API server with the answers of a test, over real HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

Reply = tuple[int, Any] | Callable[[web.Request], Awaitable[web.StreamResponse]]
"""A status with a JSON body, or a handler."""


@dataclass(frozen=True)
class Asked:
    """One received request."""

    method: str
    path: str
    query: dict[str, str]
    content_type: str
    body: Any


@dataclass
class ApiStub:
    """Replies by "METHOD path", in order. The last reply of each list repeats. All other requests get 404."""

    replies: dict[str, list[Reply]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    authorization: set[str | None] = field(default_factory=set)
    url: str = ""

    def on(self, request: str, *replies: Reply) -> None:
        """Set the answers to a request such as `GET /api/v1/pods`."""
        self.replies[request] = list(replies)

    @property
    def requests(self) -> list[str]:
        """The requests, in short."""
        return [f"{asked.method} {asked.path}" for asked in self.asked]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        body = json.loads(text) if text else None
        self.asked.append(Asked(request.method, request.path, dict(request.query), request.content_type, body))
        self.authorization.add(request.headers.get("Authorization"))
        replies = self.replies.get(f"{request.method} {request.path}", [(404, status_of(404, "NotFound"))])
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if not isinstance(reply, tuple):
            response: web.StreamResponse = await reply(request)
            return response
        status, answer = reply
        if isinstance(answer, str):
            return web.Response(status=status, text=answer)
        return web.json_response(answer, status=status)


def status_of(code: int, reason: str, message: str = "") -> dict[str, Any]:
    """Return the body of an error as the API server writes it."""
    return {"kind": "Status", "apiVersion": "v1", "code": code, "reason": reason, "message": message or reason}


@asynccontextmanager
async def api_stub() -> AsyncIterator[ApiStub]:
    """Serve inside the block."""
    stub = ApiStub()
    application = web.Application(client_max_size=1 << 24)
    application.router.add_route("*", "/{path:.*}", stub._answer)
    async with TestServer(application) as server:
        stub.url = str(server.make_url("")).rstrip("/")
        yield stub


def lines(*events: dict[str, Any], then: asyncio.Event | None = None) -> Reply:
    """Reply with these events, a line each, and end the stream. With `then`: end it once that is set."""

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for event in events:
            await response.write(json.dumps(event).encode() + b"\n")
        if then is not None:
            await then.wait()
        return response

    return stream
