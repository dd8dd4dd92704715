"""A directory of the file system as a storage."""

# ruff: noqa: D102 (Storage describes the methods)

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from torchrun_trainer.snapshots.storage.base import Hashing, Sink, Storage, fill


class Directory(Storage):
    """A directory of the file system, shared by all nodes."""

    local = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.location = str(path)

    def where(self, name: str) -> str:
        return str(self.path / name)

    def prepare(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)

    def files(self) -> dict[str, datetime]:
        found = {}
        with contextlib.suppress(FileNotFoundError), os.scandir(self.path) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    if entry.is_file():
                        found[entry.name] = datetime.fromtimestamp(entry.stat().st_mtime, tz=UTC)
        return found

    def directories(self) -> list[str]:
        return [path.name for path in self.path.iterdir() if path.is_dir()]

    def publish(self, prefix: str, content: Callable[[Sink], object], name: Callable[[str], str]) -> str:
        for leftover in self.path.glob(f".{prefix}*.tmp"):
            leftover.unlink(missing_ok=True)
        temporary = self.path / f".{prefix}{os.getpid()}.tmp"
        try:
            with temporary.open("wb") as raw:
                hashing = Hashing(raw)
                fill(hashing, content)
                raw.flush()
                os.fsync(raw.fileno())
            final = self.path / name(hashing.checksum())
            temporary.replace(final)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()  # a full disk needs the space
            raise
        _sync(self.path)
        return final.name

    def open(self, name: str, mode: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        return (self.path / name).open(mode)

    def put(self, name: str, content: bytes) -> None:
        temporary = self.path / f".{name.lstrip('.')}.{os.getpid()}"
        temporary.write_bytes(content)
        temporary.replace(self.path / name)

    def rename(self, name: str, new_name: str) -> None:
        (self.path / name).replace(self.path / new_name)

    def make_directory(self, name: str) -> None:
        (self.path / name).mkdir(exist_ok=True)

    def settle(self, name: str) -> None:
        _sync(self.path / name)

    def remove(self, name: str) -> None:
        path = self.path / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    """Make renames in a directory survive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
