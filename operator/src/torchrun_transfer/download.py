"""Downloads what the manifest of an output lists: each file complete and right, under its name only then."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torchrun_transfer import manifest
from torchrun_transfer.manifest import MANIFEST, RESERVED, Entry, Manifest
from torchrun_transfer.parts import digest_of, is_safe, publish, received
from torchrun_transfer.stores.base import Source
from torchrun_transfer.task import Task
from torchrun_transfer.troubles import ChangedError, TransferError

logger = logging.getLogger("transfer")

PARTS = f".{RESERVED}parts"


class NoManifestError(TransferError):
    """No upload is complete now."""


@dataclass
class Downloaded:
    """What one pass has done so far."""

    files: int = 0
    bytes: int = 0
    there: int = 0
    """Files that were there already."""
    read: int = 0
    """Bytes that were read and are kept: progress, also if a pass fails."""
    told: Callable[[str, int, int], None] = field(default=lambda _path, _at, _size: None)
    """Is told how far a file is: its path, the bytes that are there, and its size."""


@dataclass(frozen=True)
class Downloader:
    """Downloads one output from one store."""

    task: Task
    store: Source

    def one_pass(self, done: Downloaded) -> None:
        """Download what is missing or differs. Raises TransferError, or the errors of the store."""
        done.files = done.bytes = done.there = 0
        listed = manifest.read(self.store.get(MANIFEST))
        if listed is None:
            raise NoManifestError(f"{self.task.url} has no manifest: no upload is complete there now")
        self._check(listed)
        os.makedirs(self.task.path, exist_ok=True)
        with self._alone():
            for path, entry in sorted(listed.files.items()):
                if self._there(path, entry):
                    done.there += 1
                else:
                    self._download(path, entry, done)
                done.files += 1
                done.bytes += entry.size

    def _check(self, listed: Manifest) -> None:
        wrong = [path for path in listed.files if not is_safe(path)]
        if wrong:
            raise TransferError(f"the manifest at {self.task.url} lists {wrong[0]!r}, which is no path below it")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no other download fill the same parts."""
        with contextlib.ExitStack() as stack:
            if sys.platform != "win32":
                import fcntl  # noqa: PLC0415 not on Windows

                directory = os.open(self.task.path, os.O_RDONLY)
                stack.callback(os.close, directory)
                try:
                    fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise TransferError(f"another download to {self.task.path} runs") from error
            yield

    def _there(self, path: str, entry: Entry) -> bool:
        final = os.path.join(self.task.path, path)
        return os.path.isfile(final) and os.path.getsize(final) == entry.size and digest_of(final) == entry.sha256

    def _download(self, path: str, entry: Entry, done: Downloaded) -> None:
        part, before = os.path.join(self.task.path, PARTS, entry.sha256), done.read

        def read(start: int, end: int) -> bytes:
            done.told(path, start, entry.size)
            return self.store.read(path, start, end)

        def took(count: int) -> None:
            done.read += count

        found = received(part, entry.size, read, took)
        if found != (entry.size, entry.sha256):
            os.unlink(part)
            done.read = before  # to read it again and again is no progress
            raise ChangedError(f"{self.task.url}: {path} is not as its manifest says; it may have changed meanwhile")
        publish(part, os.path.join(self.task.path, path))
        done.told(path, entry.size, entry.size)
        logger.info("downloaded %s (%d bytes)", path, entry.size)
