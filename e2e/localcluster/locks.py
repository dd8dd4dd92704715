"""Locks between runs of this program, released by the kernel however a run ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from localcluster.shell import say


@contextlib.contextmanager
def exclusive(path: Path, purpose: str) -> Iterator[None]:
    """Hold the lock file `path`, waiting for whoever holds it; it is gone afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _acquire(path, purpose)
    try:
        yield
    finally:
        # While it is still held: whoever waits for the removed file sees that and starts over with a new one.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path, purpose: str) -> int:
    told = False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                say(f"waiting for another run to finish: {purpose}")
            told = True
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
        os.close(descriptor)
