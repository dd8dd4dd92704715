"""A real rendezvous host in a process of its own, as in its pod."""

import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from torchrun_operator.rendezvous.client import host_source

TOKEN = "the token of the job"


T = TypeVar("T")


def wait_for(condition: Callable[[], T | None], what: str, seconds: float = 180) -> T:
    """Return the first true result; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.02)
    pytest.fail(f"not within {seconds} s: {what}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Host:
    process: subprocess.Popen[bytes]
    port: int
    http_port: int
    rendezvous_id: str
    log_path: Path

    wait_for = staticmethod(wait_for)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=70)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def authorized(self, method: str, path: str, document: object = None) -> dict[str, Any]:
        body = None if document is None else json.dumps(document).encode()
        status, answer = self.request(method, path, body, {"Authorization": f"Bearer {TOKEN}"})
        assert status == 200, answer
        result: dict[str, Any] = json.loads(answer)
        return result

    def state(self) -> dict[str, Any]:
        return self.authorized("GET", "/v1/state?after=0")

    def want(self, size: int, minimum: int = 1, leavers: tuple[str, ...] = (), last_call: float = 1.0) -> None:
        target = {"generation": 1, "size": size, "min": minimum, "lastCallSeconds": last_call, "leavers": leavers}
        self.authorized("PUT", "/v1/target", target)

    def close(self) -> None:
        target = {"generation": 2, "size": 1, "min": 1, "lastCallSeconds": 0, "leavers": [], "close": True}
        self.authorized("PUT", "/v1/target", target)

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log_path.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == kind]

    def healthy(self) -> bool:
        try:
            return self.request("GET", "/healthz")[0] == 200
        except OSError:
            return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(10)


@contextmanager
def running_host(directory: Path, http_port: int = 0, port: int = 0, *, ready: bool = True) -> Iterator[Host]:
    program = directory / "host.py"
    program.write_text(host_source())
    port, http_port = port or free_port(), http_port or free_port()
    log_path = directory / f"host-{port}.log"
    env = {
        **os.environ,
        "RDZV_ID": "job-uid",
        "RDZV_PORT": str(port),
        "RDZV_HTTP_PORT": str(http_port),
        "RDZV_TOKEN_SHA256": hashlib.sha256(TOKEN.encode()).hexdigest(),
    }
    with log_path.open("ab") as log:
        process = subprocess.Popen([sys.executable, str(program)], env=env, stdout=log, stderr=log)
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


@pytest.fixture(scope="session")
def run_host() -> Callable[..., AbstractContextManager[Host]]:
    return running_host


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with running_host(tmp_path) as found:
        yield found
