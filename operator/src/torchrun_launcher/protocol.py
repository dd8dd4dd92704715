"""What shim and server send each other over a Unix socket, and the address where they meet.

The shim sends four bytes, the length of the request, together with its three standard files, and then the request as
JSON. The server answers in lines of two words:

    worker PID          the worker runs
    cold REASON         the shim must start the worker itself
    status NUMBER       the worker has ended with that wait status

A connection that ends early means that its other end is gone.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys

from torchrun_launcher import ColdStartError

TYPE_CHECKING = False  # the module typing is slow to import
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

CONNECT_SECONDS = 10.0
REQUEST_BYTES = 8 << 20
# What differs between workers, or between the shells that started them, and has no influence on an import.
# fmt: off
WORKER_VARIABLES = frozenset((
    "RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT",
    "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "TORCH_NCCL_ASYNC_ERROR_HANDLING",
    "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES",
    "PWD", "OLDPWD", "SHLVL", "HOME", "HOSTNAME", "TERM", "LINES", "COLUMNS", "_",
))
# fmt: on
WORKER_PREFIX = "TORCHELASTIC_"


class Request:
    """The worker that a shim asks for."""

    def __init__(
        self,
        arguments: list[str],
        environment: dict[str, str],
        directory: str,
        cpus: list[int],
        files: list[int] | None = None,
    ) -> None:
        self.arguments = arguments
        self.environment = environment
        self.directory = directory
        self.cpus = cpus
        self.files = files or []
        """The open files of the shim, in the process that received the request."""


def address_of(interpreter: str, environment: Mapping[str, str]) -> bytes:
    """Return the address of the server for workers of that interpreter and environment, container and user.

    It is in Linux' abstract namespace, which needs no writable directory. The containers of a pod share it.
    """
    place = os.path.normpath(os.path.dirname(interpreter))
    python = [place, os.path.realpath(interpreter)]  # python and python3 of a directory are one
    identity = [python, os.getuid(), os.stat("/proc/self/ns/pid").st_ino, sorted(_shared(environment).items())]
    return b"\0torchrun-operator-" + hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32].encode()


def _shared(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what a server and its workers must have in common, because imports may depend on it."""
    return {k: v for k, v in environment.items() if k not in WORKER_VARIABLES and not k.startswith(WORKER_PREFIX)}


def connect(address: bytes) -> socket.socket | None:
    """Return a connection to the server, or None if there is none. Raises ColdStartError for another user's server."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(address)
    except ConnectionRefusedError:
        connection.close()
        return None
    if not trusted(connection):
        connection.close()
        raise ColdStartError("the server of warm starts belongs to another user")
    return connection


def trusted(connection: socket.socket) -> bool:
    """Whether the peer is a process of the same user in the same container: only such a process has a number here."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, user = (int.from_bytes(credentials[i : i + 4], sys.byteorder) for i in (0, 4))
    return pid > 0 and user == os.getuid()


def send(connection: socket.socket, request: Request) -> None:
    """Send a request, with the standard files of this process."""
    document = {
        "arguments": request.arguments,
        "environment": request.environment,
        "directory": request.directory,
        "cpus": request.cpus,
    }
    body = json.dumps(document).encode()
    socket.send_fds(connection, [len(body).to_bytes(4, "big")], [0, 1, 2])
    connection.sendall(body)


def receive(connection: socket.socket) -> Request:
    """Read a request. Raises ColdStartError, OSError, TypeError or ValueError for anything else."""
    head, files, _, _ = socket.recv_fds(connection, 4, 3)
    length = int.from_bytes(head, "big")
    if len(head) != 4 or len(files) != 3 or length > REQUEST_BYTES:
        raise ColdStartError("a request begins with three open files and a length")
    body = bytearray()
    while len(body) < length:
        received = connection.recv(min(65536, length - len(body)))
        if not received:
            raise ColdStartError("the request ends early")
        body += received
    document: dict[str, Any] = json.loads(body)
    return Request(**document, files=list(files))


def read_answer(connection: socket.socket) -> tuple[str, str]:
    """Read a line of two words. Both are empty at the end of the connection. Signals do not interrupt it."""
    line = b""
    while not line.endswith(b"\n"):
        received = connection.recv(1)
        if not received:
            return "", ""
        line += received
    kind, _, value = line.decode().strip().partition(" ")
    return kind, value
