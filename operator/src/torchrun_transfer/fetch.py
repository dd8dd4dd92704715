"""Fetches an input: each file complete and unchanged, with its checksum where the source has a manifest."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass

from torchrun_transfer import manifest
from torchrun_transfer.manifest import MANIFEST, RESERVED, Manifest
from torchrun_transfer.parts import Received, is_safe, publish, received
from torchrun_transfer.plan import Remote
from torchrun_transfer.stores.base import Store
from torchrun_transfer.task import Task
from torchrun_transfer.troubles import ChangedError, TransferError

logger = logging.getLogger("transfer")

PARTS = f".{RESERVED}parts"
RECORD = f".{RESERVED}input.json"
"""In the directory of the input: which version of each file it has. A volume that outlives the pod keeps them."""


@dataclass
class Fetched:
    """What one pass has done so far."""

    files: int = 0
    bytes: int = 0
    read: int = 0
    """Bytes that were read from the source and are kept: progress, also if a pass fails."""


@dataclass(frozen=True)
class Fetcher:
    """Fetches one input from one store."""

    task: Task
    store: Store

    def one_pass(self, done: Fetched) -> None:
        """Fetch what is missing. Raises TransferError, or the errors of the store."""
        done.files = done.bytes = 0
        listed = manifest.read(self.store.get(MANIFEST))
        wanted = self._wanted(listed)
        os.makedirs(self.task.path, exist_ok=True)
        record = self._record()
        for path, remote in sorted(wanted.items()):
            if not self._there(path, remote, record):
                expected = listed.files.get(path) if listed is not None else None
                self._fetch(path, remote, expected.sha256 if expected else "", done)
                record[path] = [remote.size, remote.tag]
                self._write_record(record)
            done.files += 1
            done.bytes += remote.size

    def _wanted(self, listed: Manifest | None) -> dict[str, Remote]:
        """Return the files to fetch: those of the manifest, or all."""
        there = {path: remote for path, remote in self.store.files().items() if not path.endswith("/")}
        if listed is not None:
            missing = sorted(listed.files.keys() - there.keys())
            if missing:
                raise TransferError(f"{self.task.url} lacks {missing[0]}, which its manifest lists; upload it again")
            there = {path: there[path] for path in listed.files}
        there = {path: remote for path, remote in there.items() if not path.startswith(RESERVED)}
        if not there:
            raise TransferError(f"{self.task.url} has no files; correct the url in spec.inputs")
        for path in there:
            if not is_safe(path):
                raise TransferError(f"{self.task.url} has a file named {path!r}, which is no path of a file; rename it")
        return there

    def _there(self, path: str, remote: Remote, record: Mapping[str, list[object]]) -> bool:
        final = os.path.join(self.task.path, path)
        right = record.get(path) == [remote.size, remote.tag]
        return right and os.path.isfile(final) and os.path.getsize(final) == remote.size

    def _fetch(self, path: str, remote: Remote, sha256: str, done: Fetched) -> None:
        part = os.path.join(self.task.path, PARTS, self._part_name(path, remote))
        before = done.read

        def took(count: int) -> None:
            done.read += count

        found = received(part, remote.size, lambda start, end: self.store.read(path, start, end), took)
        problem = self._problem(path, remote, found, sha256)
        if problem:
            os.unlink(part)
            done.read = before  # to read it again and again is no progress
            raise ChangedError(problem)
        publish(part, os.path.join(self.task.path, path))
        logger.info("fetched %s (%d bytes)", path, remote.size)

    def _problem(self, path: str, remote: Remote, found: Received, expected: str) -> str:
        if self.store.look(path) != remote or found.size != remote.size:
            return f"{self.task.url}: {path} changed while it was read; upload the input under a new url"
        if expected and found.sha256 != expected:
            return f"{self.task.url}: {path} has the checksum {found.sha256}, and the manifest says {expected}"
        return ""

    def _part_name(self, path: str, remote: Remote) -> str:
        """Return a name for this version and pod: several pods may fetch to one volume."""
        whole = json.dumps([path, remote.size, remote.tag, self.task.pod])
        return hashlib.sha256(whole.encode(errors="surrogateescape")).hexdigest()[:32]

    def _record(self) -> dict[str, list[object]]:
        try:
            with open(os.path.join(self.task.path, RECORD), encoding="utf-8") as file:
                found: dict[str, list[object]] = json.load(file)
                return found if isinstance(found, dict) else {}
        except (OSError, ValueError):
            return {}

    def _write_record(self, record: Mapping[str, list[object]]) -> None:
        final = os.path.join(self.task.path, RECORD)
        temporary = f"{final}.{hashlib.sha256(self.task.pod.encode()).hexdigest()[:8]}"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(record, file)
        os.replace(temporary, final)
