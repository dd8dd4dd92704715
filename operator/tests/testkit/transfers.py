"""Trees of files to transfer, what a reader of the copy may rely on, and stores with faults."""

import hashlib
import json
import os
import random
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torchrun_transfer.manifest import MANIFEST
from torchrun_transfer.plan import Remote
from torchrun_transfer.stores.base import Store
from torchrun_transfer.stores.directory import Directory

Content = dict[str, bytes]

LEGAL_NAMES = (
    "plain.pt", " leading and trailing ", "quote'\"`", "per%cent%20", "hash#tag", "question?mark", "star*[a]{b}",
    "plus+and&", "back\\slash", "colon:semi;", "new\nline", "tab\t", "übung-日本-🔥", "-dash", "~tilde", ".hidden",
    "a=b,c|d<e>f$g!h^i@j(k)", "deep/er/and deeper/file", "dots../..not up", "x" * 200,
)  # fmt: skip
"""Names that a file system accepts, all UTF-8."""


def write_tree(root: Path, content: Content, modified: float = 1_000_000.0) -> None:
    """Write these files, last changed at that time."""
    for path, data in content.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        os.utime(file, (modified, modified))


def problems_of(content: Content) -> list[str]:
    """Return what a reader of the copy, given all its files, finds wrong with the manifest. Empty without manifest."""
    if MANIFEST not in content:
        return []
    found = []
    for each in json.loads(content[MANIFEST])["files"]:
        data = content.get(each["path"])
        if data is None:
            found.append(f"{each['path']} is not there")
        elif (len(data), hashlib.sha256(data).hexdigest()) != (each["size"], each["sha256"]):
            found.append(f"{each['path']} is not as the manifest says")
    return found


def listed(content: Content) -> set[str]:
    """Return the files that the manifest lists."""
    return {each["path"] for each in json.loads(content[MANIFEST])["files"]}


def read_tree(root: Path) -> Content:
    """Return all files below a directory."""
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


class Clock:
    """A clock that only waits advance."""

    def __init__(self) -> None:
        self.now = 2_000_000.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        """Let that time pass."""
        self.waits.append(seconds)
        self.now += seconds


class ChanceError(OSError):
    """A fault by chance."""


@dataclass
class WatchedStore:
    """A directory as a store that records what is done to it, and may fail before or after each change."""

    root: Path
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    share: float = 0.0
    """The share of requests that fail."""
    log: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """What a reader found wrong after any change."""
    faults: int = 0

    def __post_init__(self) -> None:
        self._inner: Store = Directory(str(self.root))

    def files(self) -> dict[str, Remote]:
        self._fail()
        return self._inner.files()

    def put(self, path: str, blocks: Iterable[bytes], size: int) -> Remote:
        self._fail()
        sent = self._inner.put(path, self._cut(blocks), size)
        self._changed(f"put {path}")
        return sent

    def get(self, path: str) -> bytes | None:
        self._fail()
        return self._inner.get(path)

    def read(self, path: str, start: int, end: int) -> bytes:
        self._fail()
        return self._inner.read(path, start, end)

    def look(self, path: str) -> Remote:
        self._fail()
        return self._inner.look(path)

    def remove(self, path: str) -> None:
        self._fail()
        self._inner.remove(path)
        self._changed(f"remove {path}")

    def tidy(self, keep: Container[str] = ()) -> None:
        self._inner.tidy(keep)

    def _cut(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        for block in blocks:
            self._fail()
            yield block

    def _changed(self, what: str) -> None:
        self.log.append(what)
        self.broken += [f"after {what}: {problem}" for problem in problems_of(read_tree(self.root))]
        self._fail()

    def _fail(self) -> None:
        if self.chance.random() < self.share:
            self.faults += 1
            raise ChanceError("by chance")
