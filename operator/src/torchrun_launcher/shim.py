"""The process that torchrun starts as the worker and watches. The real worker is a fork of the server."""

from __future__ import annotations

import os
import signal
import sys
import time

from torchrun_launcher import ARCHIVE, OLDEST_PYTHON, ColdStartError
from torchrun_launcher.interpreter import interpreter_of
from torchrun_launcher.log import log
from torchrun_launcher.process import FORWARDED, die_of, end_as
from torchrun_launcher.protocol import CONNECT_SECONDS, Request, address_of, connect, read_answer, send

TYPE_CHECKING = False  # the module typing is slow to import
if TYPE_CHECKING:
    import socket
    from types import FrameType
    from typing import NoReturn

ANSWER_SECONDS = 120.0  # the server loads torch first, on a Kubernetes node that is busy with the start
POLL_SECONDS = 0.02
SCRIPT_BYTES = 65536
END_OF_ARCHIVE = b"PK\5\6"
EARLY_NAMES = (b"OMP_", b"KMP_", b"MKL_", b"OPENBLAS_", b"NUMEXPR_", b"TORCH")
SETS_EARLY = (
    rb"(?:environ|putenv)[^\n]*?[\"']("
    rb"(?:OMP|GOMP|KMP|MKL|OPENBLAS|NUMEXPR|PYTORCH|TORCHINDUCTOR|TORCHDYNAMO|TORCH_(?!NCCL_|ELASTIC|HOME))\w*)[\"']"
)
"""A variable that torch or numpy read when they are imported."""


class Shim:
    """Stands between torchrun and the worker."""

    def __init__(self) -> None:
        self.worker = 0
        self.pending: list[int] = []

    def run(self, arguments: list[str]) -> NoReturn:
        """Run the worker, warm if possible. Never returns."""
        interpreter = sys.executable
        try:
            interpreter = interpreter_of(os.getppid())
            check(arguments)
            if sys.version_info < OLDEST_PYTHON:
                self.become_newer(interpreter, arguments)
            for number in FORWARDED:
                signal.signal(number, self.forward)
            connection = self.request(interpreter, arguments)
        except (OSError, ValueError, ColdStartError) as error:
            log(f"this worker starts cold: {error}")
            self.become(interpreter, arguments)
        self.wait(connection)

    def forward(self, number: int, _: FrameType | None) -> None:
        """Send a signal to the worker and the processes that it has started. Keep it until there is a worker."""
        if not self.worker:
            self.pending.append(number)
            return
        try:
            os.killpg(self.worker, number)
        except ProcessLookupError:
            pass

    def request(self, interpreter: str, arguments: list[str]) -> socket.socket:
        """Have the server fork the worker. Return the connection, on which the server reports its end."""
        address = address_of(interpreter, os.environ)
        connection = connect(address) or self.connect_to_new_server(interpreter, address)
        connection.settimeout(ANSWER_SECONDS)
        cpus = sorted(os.sched_getaffinity(0))
        send(connection, Request(arguments, dict(os.environ), os.getcwd(), cpus))
        kind, value = read_answer(connection)
        if kind != "worker":
            connection.close()
            raise ColdStartError(value or "the server of warm starts has ended")
        connection.settimeout(None)
        self.worker = int(value)
        for pending in self.pending:
            self.forward(pending, None)
        return connection

    def connect_to_new_server(self, interpreter: str, address: bytes) -> socket.socket:
        """Start a server that exits with the agent. Raises ColdStartError if it does not listen in time."""
        from torchrun_launcher.prestart import start_server  # noqa: PLC0415 - the first worker of a node needs it

        start_server(interpreter, address, os.getppid(), os.environ)
        deadline = time.monotonic() + CONNECT_SECONDS
        while time.monotonic() < deadline:
            connection = connect(address)
            if connection is not None:
                return connection
            time.sleep(POLL_SECONDS)
        raise ColdStartError("the server of warm starts does not come up")

    def wait(self, connection: socket.socket) -> NoReturn:
        """Exit as the worker exits."""
        kind, value = read_answer(connection)
        if kind != "status":
            log("the server of warm starts has ended, and its workers with it")
            die_of(signal.SIGKILL)
        end_as(int(value))

    def become_newer(self, interpreter: str, arguments: list[str]) -> None:
        """Go on with the interpreter of the agent: `python3` in PATH need not be the one that has torch."""
        if os.path.realpath(interpreter) == os.path.realpath(sys.executable):
            raise ColdStartError(f"Python is older than {'.'.join(map(str, OLDEST_PYTHON))}")
        os.execv(interpreter, [interpreter, ARCHIVE, *arguments])  # noqa: S606

    def become(self, interpreter: str, arguments: list[str]) -> NoReturn:
        """Turn into the plain interpreter. Signals that came before have the effect that they would have had."""
        for number in FORWARDED:
            signal.signal(number, signal.SIG_DFL)
        for pending in self.pending:
            die_of(pending)
        os.environ.pop("PYTHON_EXEC", None)
        os.execv(interpreter, [interpreter, *arguments])  # noqa: S606


def check(arguments: list[str]) -> None:
    """Raise ColdStartError for arguments that the server does not run exactly as Python would."""
    if arguments[:1] != ["-u"] or len(arguments) < 2 or (arguments[1].startswith("-") and arguments[1] != "-m"):
        raise ColdStartError(f"these are not the arguments that torchrun starts scripts with: {arguments[:3]}")
    if arguments[1] == "-m" and len(arguments) < 3:
        raise ColdStartError("the module is missing")
    if arguments[1] != "-m":
        check_script(arguments[1])


def check_script(path: str) -> None:
    """Raise ColdStartError for a program that is no text, and for a script that prepares the import of torch."""
    if not os.path.isfile(path):
        raise ColdStartError(f"{path} is not a file")
    with open(path, "rb") as file:
        head = file.read(SCRIPT_BYTES)
        file.seek(max(0, os.path.getsize(path) - SCRIPT_BYTES))
        tail = file.read()
    if b"\0" in head or END_OF_ARCHIVE in tail:
        raise ColdStartError(f"{path} is not a text")
    if any(name in head for name in EARLY_NAMES):
        import re  # noqa: PLC0415 - slow, and seldom needed

        before = re.split(rb"(?m)^[ \t]*(?:import|from)[ \t]+torch\b", head, maxsplit=1)[0]
        found = re.search(SETS_EARLY, before)
        if found:
            name = found[1].decode()
            raise ColdStartError(f"{path} sets {name} before it imports torch; set it in the env of the container")
