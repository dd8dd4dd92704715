"""A URL of fsspec as a storage, such as a bucket of S3."""

# ruff: noqa: D102 (Storage describes the methods)

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import IO, Any

from torchrun_trainer.snapshots.storage.base import Hashing, Sink, Storage, StorageError, checksum_of, fill

_NO_TIME = datetime.fromtimestamp(0, tz=UTC)


class ObjectStore(Storage):
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
            fill(hashing, content)
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
