"""What to send, and what is there already. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from torchrun_transfer.manifest import Entry, Manifest


@dataclass(frozen=True)
class Local:
    """A file to send."""

    size: int
    modified: int
    """When it was last changed, in nanoseconds."""


@dataclass(frozen=True)
class Remote:
    """A file in a store."""

    size: int
    tag: str = ""
    """Differs between versions of the file; empty if the store has none."""


@dataclass(frozen=True)
class Plan:
    """How to bring the copy up to date."""

    send: tuple[str, ...]
    """Paths of new and changed files, in order."""
    kept: Mapping[str, Entry]
    """Those that are there already."""
    withdraw: bool
    """The manifest at the store lists a file that will be replaced: it must go first."""
    done: bool
    """The manifest at the store is right, so nothing is left to do."""


def known(manifest: Manifest | None, journal: Manifest | None) -> dict[str, Entry]:
    """Return what is known about the files in the store. The journal is newer."""
    return {**(manifest.files if manifest else {}), **(journal.files if journal else {})}


def plan(
    local: Mapping[str, Local],
    remote: Mapping[str, Remote],
    manifest: Manifest | None,
    journal: Manifest | None,
) -> Plan:
    """Return what to send. A file is kept if source and copy are as they were when it was sent."""
    entries = known(manifest, journal)
    kept = {
        path: entries[path]
        for path, source in local.items()
        if path in entries and _same(source, remote.get(path), entries[path])
    }
    send = tuple(sorted(path for path in local if path not in kept))
    listed = manifest.files if manifest else {}
    return Plan(
        send=send,
        kept=kept,
        withdraw=any(path in listed for path in send),
        done=manifest is not None and not send and dict(listed) == kept,
    )


def _same(source: Local, copy: Remote | None, entry: Entry) -> bool:
    if copy is None or copy.size != entry.size or copy.tag != entry.tag:
        return False
    return (source.size, source.modified) == (entry.size, entry.modified)
