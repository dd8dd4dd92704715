"""The files below a directory: which ones there are, and how to read one that must not change meanwhile."""

import hashlib
import os
import stat
from collections.abc import Iterator

from torchrun_transfer.manifest import RESERVED
from torchrun_transfer.patterns import chosen
from torchrun_transfer.plan import Local
from torchrun_transfer.troubles import ChangedError, TransferError

BLOCK = 1 << 20


def scan(root: str, include: tuple[str, ...], exclude: tuple[str, ...]) -> dict[str, Local]:
    """Return the chosen files below ``root``, by relative path. If it is a file, only that one.

    Links to files below ``root`` count as files. Other links, and what is neither file nor directory, are left out.
    Raises TransferError if there is no such path, or if a name is not UTF-8.
    """
    if os.path.isfile(root):
        return {os.path.basename(root): _local(os.stat(root))}
    if not os.path.isdir(root):
        raise TransferError(
            f"the output path {root} does not exist: the training script must write its files there, see spec.outputs"
        )
    real, found = os.path.realpath(root), {}
    for directory, _, names in os.walk(root, onerror=_raise):
        for name in names:
            full = os.path.join(directory, name)
            path = os.path.relpath(full, root)
            if path.startswith(RESERVED) or not chosen(path, include, exclude):
                continue
            seen = _regular(full, real)
            if seen is not None:
                found[_utf8(path)] = _local(seen)
    return found


def full_path(root: str, path: str) -> str:
    """Return where the file with that relative path is."""
    return root if os.path.isfile(root) else os.path.join(root, path)


class Reading:
    """Reads one file once, and makes sure that it stayed the same."""

    def __init__(self, file: str, expected: Local) -> None:
        self.file = file
        self.expected = expected
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """The checksum of what was read so far."""
        return self._digest.hexdigest()

    def blocks(self) -> Iterator[bytes]:
        """Yield the content. Raises ChangedError at the end if the file has changed since it was listed."""
        size = 0
        try:
            with open(self.file, "rb", buffering=0) as file:
                self._check(os.fstat(file.fileno()))
                while block := file.read(BLOCK):
                    self._digest.update(block)
                    size += len(block)
                    yield block
                self._check(os.fstat(file.fileno()))
            self._check(os.stat(self.file))  # another file may have its name by now
        except FileNotFoundError as error:
            raise ChangedError(f"{self.file} was removed while it was read") from error
        if size != self.expected.size:
            raise ChangedError(f"{self.file} changed while it was read")

    def _check(self, seen: os.stat_result) -> None:
        if _local(seen) != self.expected:
            raise ChangedError(f"{self.file} changed while it was read")


def _local(seen: os.stat_result) -> Local:
    return Local(seen.st_size, seen.st_mtime_ns)


def _regular(full: str, real: str) -> os.stat_result | None:
    """Return the state of a regular file, or of one that a link below the root leads to. None: it is neither."""
    try:
        if os.path.islink(full) and not os.path.realpath(full).startswith(f"{real}/"):
            return None
        seen = os.stat(full)
    except FileNotFoundError:  # removed meanwhile, or a link to nothing
        return None
    return seen if stat.S_ISREG(seen.st_mode) else None


def _utf8(path: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        readable = os.fsencode(path).decode(errors="replace")
        raise TransferError(f"the name of {readable} is not UTF-8, which stores need: rename or exclude it") from error
    return path


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # a directory that was removed meanwhile has no files
        raise error
