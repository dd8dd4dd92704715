"""Stacks: makes workers write where they stand, when a person asks.

A worker that uses ``Run`` answers SIGUSR1 with the stacks of all its threads on standard error, which is the log of its
pod, and continues. ``python -m torchrun_trainer.stacks`` sends the signal to the workers of this node only: it ends a
process that does not expect it, such as torchrun's agent.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from pathlib import Path

SIGNAL = signal.SIGUSR1
_STDERR = 2
_PYTORCH = b"/libtorch"


def answer_signal() -> bool:
    """Write the stacks of all threads whenever SIGUSR1 comes, even inside native code that keeps Python's lock.

    Returns False, and changes nothing, if the script uses the signal itself.
    """
    if signal.getsignal(SIGNAL) is not signal.SIG_DFL:
        return False
    faulthandler.register(SIGNAL, file=_STDERR, all_threads=True)
    return True


def workers(proc: Path = Path("/proc")) -> dict[int, str | None]:
    """Return the processes on this host, or in this container, that answer, with their ranks where known.

    These are processes with PyTorch that catch SIGUSR1. Data loader workers, which inherit the handler, are among them.
    """
    found = {}
    for path in sorted(proc.glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            if _catches((path / "status").read_text()) and _PYTORCH in (path / "maps").read_bytes():
                found[int(path.name)] = _rank((path / "environ").read_bytes())
        except OSError:
            continue  # it has ended, or belongs to another user
    return found


def _catches(status: str) -> bool:
    masks = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(masks) and bool(int(masks[0], 16) >> (SIGNAL - 1) & 1)


def _rank(environment: bytes) -> str | None:
    for variable in environment.split(b"\0"):
        name, _, value = variable.partition(b"=")
        if name == b"RANK":
            return value.decode()
    return None  # a warm-started worker: /proc shows the environment that it began with


def main() -> int:
    """Ask all workers of this node; return 1 if there are none."""
    asked = workers()
    asked.pop(os.getpid(), None)
    for pid, rank in asked.items():
        os.kill(pid, SIGNAL)
        sys.stdout.write(f"asked process {pid}{f' (rank {rank})' if rank else ''}: its stacks are in this node's log\n")
    if not asked:
        sys.stdout.write("no process here answers SIGUSR1: a worker does once it has created its Run\n")
    return 0 if asked else 1
