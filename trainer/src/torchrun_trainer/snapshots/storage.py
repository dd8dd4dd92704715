"""Storage: a directory or a URL of fsspec for snapshots, where a file appears complete or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

_BLOCK = 1 << 20
_CHECKSUM_DIGITS = 16
_NO_TIME = datetime.fromtimestamp(0, tz=UTC)


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


def _fill(hashing: Hashing, content: Callable[[Sink], object]) -> None:
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
        """Open a file to read it ("rb"), or to write it ("wb") if nobody reads it yet."""

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


class _Directory(Storage):
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
                _fill(hashing, content)
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


class _ObjectStore(Storage):
    """Any storage of fsspec where an object appears once it has been written completely, as in S3.

    It cannot publish by a rename. So a file with its checksum in its name is serialized twice: once for the name, and
    once to write it. A change in between is an error.
    """

    def __init__(self, url: str) -> None:
        fsspec = importlib.import_module("fsspec")
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            hint = "; pip install 'torchrun-trainer[s3]'" if url.startswith("s3") else ""
            raise StorageError(f"{url} cannot be used for snapshots: {error}{hint}") from error
        self.location = url

    def prepare(self) -> None:
        pass  # never create a bucket: its name may be misspelt

    def files(self) -> dict[str, datetime]:
        return {_name(info): _modified(info) for info in self._list() if info["type"] == "file"}

    def directories(self) -> list[str]:
        return [_name(info) for info in self._list() if info["type"] == "directory"]

    def _list(self) -> list[dict[str, Any]]:
        self._fs.invalidate_cache()
        try:
            found: list[dict[str, Any]] = self._fs.ls(self._root, detail=True)
        except FileNotFoundError:
            return []
        return [info for info in found if info["name"].rstrip("/") != self._root.rstrip("/")]

    def publish(self, prefix: str, content: Callable[[Sink], object], name: Callable[[str], str]) -> str:
        expected = checksum_of(content)
        final = name(expected)
        with self.open(final, "wb") as raw:
            hashing = Hashing(raw)
            _fill(hashing, content)
            if hashing.checksum() != expected:
                raise OSError(f"{self.where(final)} changed while it was being written")
        return final

    def open(self, name: str, mode: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        return self._reading(name) if mode == "rb" else _Upload(self._fs.open(self._path(name), mode))

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[IO[bytes]]:
        self._fs.invalidate_cache()
        with self._fs.open(self._path(name), "rb") as file:
            yield file

    def put(self, name: str, content: bytes) -> None:
        self._fs.pipe_file(self._path(name), content)

    def rename(self, name: str, new_name: str) -> None:
        self._fs.mv(self._path(name), self._path(new_name))

    def make_directory(self, name: str) -> None:
        self._fs.makedirs(self._path(name), exist_ok=True)

    def settle(self, name: str) -> None:
        pass

    def remove(self, name: str) -> None:
        self._fs.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._path(name), recursive=True)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"


class _Upload:
    """An object being written, which is discarded if an error leaves the context."""

    def __init__(self, file: Any) -> None:  # noqa: ANN401
        self._file = file

    def __enter__(self) -> Any:  # noqa: ANN401
        return self._file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._file.close()
            return
        with contextlib.suppress(Exception):
            self._file.discard()
        with contextlib.suppress(AttributeError):
            self._file.closed = True  # fsspec checks this before it completes an upload


def _name(info: dict[str, Any]) -> str:
    return str(info["name"]).rstrip("/").rpartition("/")[2]


def _modified(info: dict[str, Any]) -> datetime:
    """Return when an object was last changed. Each file system has its own key for that."""
    for key in ("LastModified", "last_modified", "mtime", "updated", "created"):
        value = info.get(key)
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, int | float):
            value = datetime.fromtimestamp(value, tz=UTC)
        if isinstance(value, datetime):
            return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    return _NO_TIME


def storage(location: str | Path) -> Storage:
    """Return the storage at a path or URL. Raises StorageError for a URL that cannot be used."""
    text = str(location)
    if "://" not in text:
        return _Directory(Path(location))
    if text.startswith(("file://", "local://")):
        return _Directory(Path(text.partition("://")[2]))
    return _ObjectStore(text)
