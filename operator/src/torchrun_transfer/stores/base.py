"""The interface of a store."""

from collections.abc import Container, Iterable
from typing import Protocol

from torchrun_transfer.plan import Remote


class Source(Protocol):
    """What a reader of a complete output needs. Methods raise OSError or the errors of fsspec's implementations."""

    def get(self, path: str) -> bytes | None:
        """Return the content of a small file; None if there is none."""
        ...

    def read(self, path: str, start: int, end: int) -> bytes:
        """Return a part of a file."""
        ...


class Store(Source, Protocol):
    """Files below one URL, by relative path."""

    def files(self) -> dict[str, Remote]:
        """Return all files. A store without the directory has none."""
        ...

    def put(self, path: str, blocks: Iterable[bytes], size: int) -> Remote:
        """Write a file of that size. It appears complete, and only if ``blocks`` ends without an error."""
        ...

    def look(self, path: str) -> Remote:
        """Return what is known about one file now. Raises FileNotFoundError."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file if it exists."""
        ...

    def tidy(self, keep: Container[str] = ()) -> None:
        """Remove what killed writers left behind, except what serves to go on with the files ``keep``."""
        ...
