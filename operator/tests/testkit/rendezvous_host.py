"""A real rendezvous host in its own process, as in its pod, and the requests of an operator."""

import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest

from support.ports import free_port
from torchrun_operator.programs import zipapp

TOKEN = "the token of the job"
PROGRAM = "rendezvous.pyz"
T = TypeVar("T")


def wait_for(condition: Callable[[], T | None], what: str, seconds: float = 180) -> T:
    """Return the first true result. Fail after that many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.02)
    pytest.fail(f"not within {seconds} s: {what}")


def untimed(answer: bytes) -> dict[str, Any]:
    """Return the state document in an answer, without the time of the answer."""
    document: dict[str, Any] = json.loads(answer)
    del document["time"]
    return document


@dataclass
class Host:
    """The process, and requests to it."""

    process: subprocess.Popen[bytes]
    port: int
    http_port: int
    rendezvous_id: str
    log_path: Path

    @property
    def url(self) -> str:
        """Return the URL of its HTTP interface."""
        return f"http://127.0.0.1:{self.http_port}"

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Return status and body of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=70)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def authorized(self, method: str, path: str, document: object = None) -> dict[str, Any]:
        """Return the answer to a request with the token, without its time."""
        body = None if document is None else json.dumps(document).encode()
        status, answer = self.request(method, path, body, {"Authorization": f"Bearer {TOKEN}"})
        assert status == 200, answer
        return untimed(answer)

    def answered_at(self) -> datetime:
        """Return the time in a state document."""
        _, answer = self.request("GET", "/v1/state?after=0", None, {"Authorization": f"Bearer {TOKEN}"})
        return datetime.fromisoformat(json.loads(answer)["time"])

    def state(self) -> dict[str, Any]:
        """Return the state document."""
        return self.authorized("GET", "/v1/state?after=0")

    def want(self, size: int, minimum: int = 1, leavers: tuple[str, ...] = (), last_call: float = 1.0) -> None:
        """Send a target."""
        target = {"generation": 1, "size": size, "min": minimum, "lastCallSeconds": last_call, "leavers": leavers}
        self.authorized("PUT", "/v1/target", target)

    def close(self) -> None:
        """Send a target that ends the rendezvous."""
        target = {"generation": 2, "size": 1, "min": 1, "lastCallSeconds": 0, "leavers": [], "close": True}
        self.authorized("PUT", "/v1/target", target)

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the lines of its log with that event."""
        lines = [json.loads(line) for line in self.log_path.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == kind]

    def metrics(self) -> dict[str, float]:
        """Return its metrics without the common prefix."""
        text = self.request("GET", "/metrics")[1].decode()
        samples = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name.removeprefix("torchrun_rendezvous_"): float(value) for name, value in samples}

    def healthy(self) -> bool:
        """Whether its probe succeeds."""
        try:
            return self.request("GET", "/healthz")[0] == 200
        except OSError:
            return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(10)


def host_program(directory: Path) -> Path:
    """Write the program as its pods get it, and return its path."""
    program = directory / PROGRAM
    program.write_bytes(zipapp("torchrun_rendezvous"))
    return program


@contextmanager
def running_host(
    directory: Path,
    http_port: int = 0,
    port: int = 0,
    *,
    ready: bool = True,
    python: str = sys.executable,
    main: str | None = None,
    seek_seconds: float = 0.0,
) -> Iterator[Host]:
    """Run a host until the end of the block.

    `python` is another Python with another torch. `main` is another main program, which can import the host's package.
    `seek_seconds` is how long it waits for agents that bring the state of another host.
    """
    program = host_program(directory)
    if main is not None:
        program = directory / "main.py"
        program.write_text(f"import sys\nsys.path.insert(0, {str(directory / PROGRAM)!r})\n{main}")
    port, http_port = port or free_port(), http_port or free_port()
    log_path = directory / f"host-{port}.log"
    env = {
        **os.environ,
        "RDZV_ID": "job-uid",
        "RDZV_PORT": str(port),
        "RDZV_HTTP_PORT": str(http_port),
        "RDZV_SEEK_SECONDS": str(seek_seconds),
        "RDZV_TOKEN_SHA256": hashlib.sha256(TOKEN.encode()).hexdigest(),
    }
    with log_path.open("ab") as log:
        process = subprocess.Popen([python, str(program)], env=env, stdout=log, stderr=log)
    host = Host(process, port, http_port, "job-uid", log_path)
    try:
        if ready:
            wait_for(lambda: host.healthy() or process.poll() is not None, "the host is up")
            assert process.poll() is None, log_path.read_text()
        yield host
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)


class Operator:
    """A client with the token that always has an open request, like the operator. A context manager."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._gone = threading.Event()
        self._connection = http.client.HTTPConnection("127.0.0.1", host.http_port, timeout=70)
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> Self:
        self._connection.connect()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._gone.set()
        if self._connection.sock is not None:
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._connection.close()

    def _poll(self) -> None:
        version = 0
        while not self._gone.is_set():
            path = f"/v1/state?after={version}&timeout=30"
            try:
                self._connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
                version = json.loads(self._connection.getresponse().read())["version"]
            except (OSError, http.client.HTTPException, ValueError):
                return
