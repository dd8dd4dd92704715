"""A container with the launcher and a torch of its own, which loads at once."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from torchrun_operator.programs import zipapp

# Shows which process loaded it. The other modules that the server loads are empty.
TORCH = """
import os
loaded_by, threads = os.getpid(), 4
def set_num_threads(number): global threads; threads = number
"""
ABOUT = """
import atexit, json, os, signal, sys
import torch
about = {
    "argv": sys.argv, "name": __name__, "file": globals().get("__file__"), "path": sys.path[0],
    "directory": os.getcwd(), "warm": torch.loaded_by != os.getpid(), "threads": torch.threads,
    "rank": os.environ.get("RANK"), "python_exec": os.environ.get("PYTHON_EXEC"),
    "alone": os.getpgid(0) == os.getpid() or None, "main": sys.modules["__main__"].__dict__ is globals(),
    "cpus": len(os.sched_getaffinity(0)), "orig": sys.orig_argv[1:],
    "default": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
}
print(json.dumps(about), flush=True)
atexit.register(print, "the end", flush=True)
"""

T = TypeVar("T")


def wait_for(condition: Callable[[], T | None], what: str, seconds: float = 60) -> T:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.01)
    pytest.fail(f"not within {seconds} s: {what}")


def servers(watched: int) -> list[int]:
    """Return the fork servers that end with that process."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")[:-1]
        except OSError:
            continue
        if words[-1:] == [str(watched).encode()] and b"--serve" in words:
            found.append(int(directory.name))
    return found


@dataclass
class Node:
    """The container of a node: a directory with the launcher, and an environment with a torch of its own."""

    directory: Path
    environment: dict[str, str]

    @property
    def program(self) -> Path:
        return self.directory / "python"

    def script(self, text: str, name: str = "train.py") -> str:
        (self.directory / name).write_text(text)
        return name

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a worker as torchrun does."""
        return subprocess.Popen(
            [str(self.program), "-u", *arguments],
            cwd=self.directory,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        """Run a worker to its end. Returns exit code, output, and its errors without the messages of the launcher."""
        worker = self.start(*arguments, **environment)
        out, err = worker.communicate(timeout=60)
        own = [
            line for line in err.splitlines(keepends=True) if not line.startswith("torchrun-operator: workers start")
        ]
        return worker.returncode, out, "".join(own)

    def about(self, *arguments: str, **environment: str) -> dict[str, Any]:
        code, out, err = self.run(*arguments, **environment)
        assert (code, err) == (0, "")
        lines = out.splitlines()
        assert lines[1:] == ["the end"]
        result: dict[str, Any] = json.loads(lines[0])
        return result

    def modules(self, **texts: str) -> None:
        for name, text in texts.items():
            path = self.directory / "site" / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


@contextmanager
def launching(tmp_path: Path) -> Iterator[Node]:
    """Make a node, and end its servers afterwards."""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "POD_NAME": tmp_path.name}
    made = Node(tmp_path, {**environment, "PYTHON_EXEC": str(tmp_path / "python")})
    made.program.write_bytes(zipapp("torchrun_launcher"))
    made.program.chmod(0o755)
    made.modules(torch____init__=TORCH, torch__distributed="", torch__nn__parallel="", torch___dynamo="")
    (tmp_path / "site/torch/__init__.py").write_text(TORCH)
    for package in ("site/torch/nn",):
        (tmp_path / package / "__init__.py").write_text("")
    yield made
    for server in servers(os.getpid()):
        os.kill(server, signal.SIGKILL)
    wait_for(lambda: not servers(os.getpid()), "the servers have ended")


UNFIT = {
    "there are threads": "import threading, time; threading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
    "there are processes": "from subprocess import *; cat = Popen('cat', stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL)",
}

WAITS = """
import os, signal, sys, time
def leave(number, frame): print("got", number, flush=True); sys.exit(7)
signal.signal(signal.SIGTERM, leave)
child = os.fork()
if child == 0:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
os.write(1, f"{os.getpid() if child else 'child'}\\n".encode())  # at once, for two processes write
while True: time.sleep(0.01)
"""


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True
