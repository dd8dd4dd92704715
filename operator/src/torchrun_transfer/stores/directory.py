"""A directory as a store: of the image, a volume or a network file system."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Container, Iterable

from torchrun_transfer.manifest import RESERVED
from torchrun_transfer.plan import Remote
from torchrun_transfer.tree import BLOCK

PARTS = f"{RESERVED}parts"
"""Directory for files that are not complete yet. On the same file system, so that a rename is atomic."""


class Directory:
    """Files below a directory."""

    def __init__(self, root: str) -> None:
        self._root = root

    def files(self) -> dict[str, Remote]:
        """See Store.files. A URL of one file has this file only."""
        if os.path.isfile(self._root):
            return {os.path.basename(self._root): _remote(os.stat(self._root))}
        found = {}
        for directory, below, names in os.walk(self._root, onerror=_raise):
            if directory == self._root and PARTS in below:
                below.remove(PARTS)
            for name in names:
                full = os.path.join(directory, name)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.isfile(full):
                        found[os.path.relpath(full, self._root)] = _remote(os.stat(full))
        return found

    def put(self, path: str, blocks: Iterable[bytes], size: int) -> Remote:
        """See Store.put."""
        del size
        final, parts = os.path.join(self._root, path), os.path.join(self._root, PARTS)
        os.makedirs(parts, exist_ok=True)
        temporary = os.path.join(parts, hashlib.sha256(path.encode()).hexdigest()[:32])
        try:
            with open(temporary, "wb") as file:
                file.writelines(blocks)
                file.flush()
                os.fsync(file.fileno())
            os.makedirs(os.path.dirname(final), exist_ok=True)
            os.replace(temporary, final)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # a full disk needs the space
            raise
        _sync(os.path.dirname(final))
        return _remote(os.stat(final))

    def get(self, path: str) -> bytes | None:
        """See Store.get."""
        try:
            with open(self._full(path), "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, path: str, start: int, end: int) -> bytes:
        """See Store.read."""
        with open(self._full(path), "rb") as file:
            file.seek(start)
            found = bytearray()
            while len(found) < end - start and (block := file.read(min(BLOCK, end - start - len(found)))):
                found += block
            return bytes(found)

    def look(self, path: str) -> Remote:
        """See Store.look."""
        return _remote(os.stat(self._full(path)))

    def remove(self, path: str) -> None:
        """See Store.remove."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._root, path))

    def tidy(self, keep: Container[str] = ()) -> None:
        """See Store.tidy. Files are sent from their beginning, so nothing is kept."""
        del keep
        shutil.rmtree(os.path.join(self._root, PARTS), ignore_errors=True)

    def _full(self, path: str) -> str:
        return self._root if os.path.isfile(self._root) else os.path.join(self._root, path)


def _remote(seen: os.stat_result) -> Remote:
    return Remote(seen.st_size, f"{seen.st_mtime_ns}-{seen.st_ino}")


def _sync(directory: str) -> None:
    """Make a rename survive a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        opened = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
