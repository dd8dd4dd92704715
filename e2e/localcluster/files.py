"""Atomic files, and keys for the inputs of a result."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file atomically, also with regard to crashes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.touch(mode=mode)
    partial.chmod(mode)
    partial.write_text(text)
    partial.replace(path)


def write_json(path: Path, value: object, mode: int = 0o644) -> None:
    """Write a value as JSON, which is also YAML."""
    write(path, json.dumps(value, indent=2) + "\n", mode)


def read_json(path: Path) -> Any:  # noqa: ANN401 - whatever was written
    """Read a JSON file. Returns None if it is missing or not JSON."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def remove(path: Path) -> None:
    """Remove a file or a tree if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def key_of(parts: Iterable[str | bytes]) -> str:
    """Short hash of a sequence of parts."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


def tree_parts(root: Path) -> list[bytes]:
    """Parts for `key_of` that depend on every name, kind, executable bit and byte below `root`."""
    parts: list[bytes] = []
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root)).encode()
        if path.is_symlink():
            parts += [b"link", name, os.fsencode(path.readlink())]
        elif path.is_file():
            kind = b"program" if path.stat().st_mode & 0o100 else b"file"
            parts += [kind, name, path.read_bytes()]
    return parts
