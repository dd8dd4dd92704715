"""The manifest beside the files: their sizes and checksums. It comes last, so it says that all of them are there. Pure.

The journal has the same format. It lists what was sent so far, and is removed once the manifest is written.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RESERVED = "_torchrun_"
"""Files at the top of an output whose names start with this are never sent."""
MANIFEST = f"{RESERVED}manifest.json"
JOURNAL = f"{RESERVED}journal.json"
FORMAT = "torchrun-manifest-1"


@dataclass(frozen=True)
class Entry:
    """One file that was sent, and the source and the copy as they were then."""

    size: int
    sha256: str
    modified: int
    """When the source was last changed, in nanoseconds."""
    tag: str
    """What the store says about the version of the copy; empty if it says nothing."""


@dataclass(frozen=True)
class Manifest:
    """All files of an output, by path."""

    files: Mapping[str, Entry] = field(default_factory=dict)
    job: Mapping[str, str] = field(default_factory=dict)


def written(manifest: Manifest, time: str) -> bytes:
    """Return the manifest as JSON, sorted by path."""
    files = [
        {"path": path, "size": e.size, "sha256": e.sha256, "modified": e.modified, "tag": e.tag}
        for path, e in sorted(manifest.files.items())
    ]
    document = {"format": FORMAT, "time": time, "job": dict(manifest.job), "files": files}
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def read(content: bytes | None) -> Manifest | None:
    """Return the manifest. None: there is none, or its format is unknown, so nothing is known about the files."""
    try:
        document: dict[str, Any] = json.loads(content or b"null")
        if document["format"] != FORMAT:
            return None
        files = {str(each["path"]): _entry(each) for each in document["files"]}
        return Manifest(files, {str(key): str(value) for key, value in document["job"].items()})
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _entry(each: Mapping[str, Any]) -> Entry:
    return Entry(int(each["size"]), str(each["sha256"]), int(each["modified"]), str(each["tag"]))
