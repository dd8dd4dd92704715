"""No connection outlives the event loop, whatever the API server was doing when the operator stopped."""

import asyncio
import contextlib
import gc
import socket
import ssl
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import kopf
import pytest
from kubernetes.aio import client

from torchrun_operator.cluster.transport import Transport
from torchrun_operator.cluster.watch.cache import JobCache
from torchrun_operator.cluster.watch.jobs import JobWatch

HALF = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
STATES = [None, b"", HALF]
NAMES = ["no end of the handshake", "no answer", "half an answer"]


@contextmanager
def server(directory: Path, answer: bytes | None) -> Iterator[tuple[str, Event]]:
    """Yield the address of an HTTPS server, and an event that is set once a request waits.

    It sends the answer (None: it does not even end the handshake), reads no more, and never closes.
    """
    key, certificate = directory / "key", directory / "certificate"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=api"]
    subprocess.run([*made, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    waits = Event()

    def serve(listening: socket.socket, held: contextlib.ExitStack) -> None:
        while True:
            try:
                accepted = held.enter_context(listening.accept()[0])
            except OSError:
                return
            with contextlib.suppress(OSError):  # the client has closed a connection that it did not need
                if answer is not None:
                    accepted = held.enter_context(context.wrap_socket(accepted, server_side=True))
                    accepted.recv(1 << 16)
                    accepted.sendall(answer)
                waits.set()

    with contextlib.ExitStack() as held, socket.create_server(("127.0.0.1", 0)) as listening:
        thread = Thread(target=serve, args=(listening, held))
        thread.start()
        try:
            yield f"https://127.0.0.1:{listening.getsockname()[1]}", waits
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def sockets_to(url: str) -> int:
    """Return how many open sockets of this process lead to that address."""
    port = int(url.rsplit(":", 1)[1])
    # Not isinstance(): it asks objects of torch for their class, and they warn.
    found = [each for each in gc.get_objects() if issubclass(type(each), socket.socket) and each.fileno() != -1]
    return sum(_leads_to(each, port) for each in found)


def _leads_to(each: socket.socket, port: int) -> bool:
    try:
        return bool(each.getpeername()[1] == port)
    except (OSError, IndexError):
        return False


async def cancelled_once(waits: Event, work: Coroutine[Any, Any, object]) -> None:
    task = asyncio.create_task(work)
    assert await asyncio.to_thread(waits.wait, 20)
    task.cancel()
    await asyncio.wait([task])


async def request(url: str, waits: Event) -> None:
    configuration = client.Configuration()
    configuration.host, configuration.verify_ssl = url, False
    transport = Transport(configuration, lambda *_: None)
    await cancelled_once(waits, transport.request("GET", "pods", "api/v1/namespaces/team/pods"))
    await transport.aclose()


async def watch(url: str, waits: Event) -> None:
    def login(**_: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(server=url, insecure=True)

    await cancelled_once(waits, JobWatch("team", JobCache(), lambda _key: None, login).run())


@pytest.mark.parametrize("answer", STATES, ids=NAMES)
@pytest.mark.parametrize("use", [request, watch])
def test_no_connection_outlives_the_event_loop(
    tmp_path: Path, use: Callable[[str, Event], Coroutine[Any, Any, None]], answer: bytes | None
) -> None:
    with server(tmp_path, answer) as (url, waits):
        asyncio.run(use(url, waits))
        assert sockets_to(url) == 0
