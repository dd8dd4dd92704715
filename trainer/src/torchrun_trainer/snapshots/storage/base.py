"""The interface of a storage, and files that compute their checksum while they are written."""

from __future__ import annotations

import contextlib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import datetime
from typing import IO, Any, Protocol

_BLOCK = 1 << 20
_CHECKSUM_DIGITS = 16


class StorageError(RuntimeError):
    """A storage cannot be used: its URL is wrong, or a package for it is missing."""


class Sink(Protocol):
    """A file opened for writing."""

    def write(self, data: Any, /) -> int:  # noqa: ANN401
        """Take bytes, or an object that holds bytes; return how many."""

    def flush(self) -> None:
        """Pass on what is buffered."""


class Hashing:
    """A file opened for writing that computes the size and the checksum of what is written."""

    def __init__(self, raw: Sink) -> None:
        self.size = 0
        self.failure: BaseException | None = None
        """The error of the file, if it has raised one."""
        self._raw = raw
        self._hash = hashlib.sha256()

    def write(self, data: Any) -> int:  # noqa: ANN401
        """Write bytes, or an object that holds bytes; return how many."""
        self._hash.update(data)
        try:
            self._raw.write(data)
        except BaseException as error:
            self.failure = error
            raise
        written = memoryview(data).nbytes
        self.size += written
        return written

    def tell(self) -> int:
        """Return how many bytes have been written."""
        return self.size

    def checksum(self) -> str:
        """Return the first 16 hexadecimal digits of the SHA-256 of what has been written."""
        return self._hash.hexdigest()[:_CHECKSUM_DIGITS]

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._raw, name)


def fill(hashing: Hashing, content: Callable[[Sink], object]) -> None:
    """Write the content. Raises the error of the file: torch.save, cut short, ends with another error of its own."""
    try:
        content(hashing)
    except BaseException as error:
        if hashing.failure is None or hashing.failure is error:
            raise
        raise hashing.failure from error


class _Nowhere:
    def write(self, data: Any, /) -> int:  # noqa: ANN401
        return memoryview(data).nbytes

    def flush(self) -> None:
        pass


def checksum_of(content: Callable[[Sink], object]) -> str:
    """Return the checksum of what ``content`` writes, without storing it."""
    hashing = Hashing(_Nowhere())
    content(hashing)
    return hashing.checksum()


class Storage(ABC):
    """Files, and directories of files; names are relative to the storage.

    Methods raise OSError (or the error of fsspec's implementation) if the storage cannot be reached or written.
    """

    location: str
    local = False
    """Whether a file survives a power cut only after ``fsync``."""

    def where(self, name: str) -> str:
        """Return the full path or URL of a file."""
        return f"{self.location.rstrip('/')}/{name}"

    @abstractmethod
    def prepare(self) -> None:
        """Create the directory if it does not exist."""

    @abstractmethod
    def files(self) -> dict[str, datetime]:
        """Return the files with the time of their last change; none if the directory does not exist."""

    @abstractmethod
    def directories(self) -> list[str]:
        """Return the names of the directories."""

    @abstractmethod
    def publish(self, prefix: str, content: Callable[[Sink], object], name: Callable[[str], str]) -> str:
        """Write ``content`` to a file with a name that depends on its checksum; return the name.

        The file appears complete or not at all. Leftovers of killed writers of files with this prefix are removed:
        there must be one writer at a time.
        """

    @abstractmethod
    def open(self, name: str, mode: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """Open a file to read it ("rb"), or to write it ("wb") if no process reads it yet."""

    @abstractmethod
    def put(self, name: str, content: bytes) -> None:
        """Replace a small file in one piece. It need not survive a power cut."""

    @abstractmethod
    def rename(self, name: str, new_name: str) -> None:
        """Rename a file."""

    @abstractmethod
    def make_directory(self, name: str) -> None:
        """Create a directory if it does not exist."""

    @abstractmethod
    def settle(self, name: str) -> None:
        """Make the names of the files in a directory survive a power cut."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, or a directory with its files, if it exists."""

    def exists(self, name: str) -> bool:
        """Return whether there is a file of this name."""
        try:
            with self.open(name, "rb"):
                return True
        except FileNotFoundError:
            return False

    def get(self, name: str) -> bytes | None:
        """Return the content of a small file; None if there is none."""
        try:
            with self.open(name, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def checksum(self, name: str) -> tuple[int, str]:
        """Return a file's size and checksum. Raises FileNotFoundError."""
        digest, size = hashlib.sha256(), 0
        with self.open(name, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                size += len(block)
        return size, digest.hexdigest()[:_CHECKSUM_DIGITS]
