"""Receives a file in a part, which gets the name of the file once it is complete. A killed transfer goes on."""

import contextlib
import hashlib
import os
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

from torchrun_transfer.tree import BLOCK

_STEP = 16 << 20


class Received(NamedTuple):
    """What a part has now."""

    size: int
    sha256: str


def received(
    part: str, size: int, read: Callable[[int, int], bytes], took: Callable[[int], None] = lambda _: None
) -> Received:
    """Fill a part up to that size, from where an earlier attempt stopped. The content may end before.

    ``read`` returns the bytes from one offset to another; ``took`` is told the length of each block. A part that is too
    long is returned as it is.
    """
    os.makedirs(os.path.dirname(part), exist_ok=True)
    digest = hashlib.sha256()
    with open(part, "ab+") as file:
        _resume(file, digest)
        while (at := file.tell()) < size:
            block = read(at, min(at + _STEP, size))
            if not block:
                break
            file.write(block)
            digest.update(block)
            took(len(block))
        file.flush()
        os.fsync(file.fileno())
        return Received(file.tell(), digest.hexdigest())


def publish(part: str, final: str) -> None:
    """Give a complete part the name of its file, and remove the directory of the parts after the last one."""
    os.makedirs(os.path.dirname(final), exist_ok=True)
    os.replace(part, final)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(part))


def digest_of(path: str) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def is_safe(path: str) -> bool:
    """Whether a path from elsewhere stays below the directory that it is put into, and can be a name there."""
    return not {"", ".", ".."}.intersection(path.split("/")) and "\0" not in path


def _resume(file: BinaryIO, digest: "hashlib._Hash") -> None:
    """Read what an earlier attempt has received, and go to its end."""
    file.seek(0)
    while block := file.read(BLOCK):
        digest.update(block)
