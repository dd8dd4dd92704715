"""Locks between runs of this program, which the kernel releases when a run ends, and directories for one run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from localcluster.shell import say


@contextlib.contextmanager
def exclusive(path: Path, purpose: str) -> Iterator[None]:
    """Hold the lock file `path`, and wait for its holder first. The file is removed afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _acquire(path, purpose)
    try:
        yield
    finally:
        # While the lock is held: a process that waits for the removed file notices and starts over with a new one.
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


@contextlib.contextmanager
def workspace(parent: Path) -> Iterator[Path]:
    """Directory for this run. Directories of killed runs are removed first."""
    parent.mkdir(parents=True, exist_ok=True)
    gate = _open(parent)
    # No other run may take a new directory for an abandoned one before it is locked.
    fcntl.flock(gate, fcntl.LOCK_EX)
    for abandoned in parent.iterdir():
        _remove_unlocked(abandoned)
    directory = Path(tempfile.mkdtemp(dir=parent))
    descriptor = _open(directory)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.close(gate)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(descriptor)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _remove_unlocked(directory: Path) -> None:
    try:
        descriptor = _open(directory)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory, ignore_errors=True)
    except BlockingIOError:
        pass  # Its run continues.
    finally:
        os.close(descriptor)
