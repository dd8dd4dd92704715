"""The programs that run in a job's pods, packed as zipapps: one file each, the same bytes for the same source."""

import io
import zipfile
from importlib import resources
from importlib.resources.abc import Traversable

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip archive can hold: real times would change the bytes."""
_SHEBANG = b"#!/usr/bin/env python3\n"
_MAIN = "import runpy\nrunpy.run_module({package!r} + '.__main__', run_name='__main__', alter_sys=True)\n"


def zipapp(package: str) -> bytes:
    """Return an executable zip archive that runs ``python3 -m package`` without an installation.

    Only Python sources are packed. The archive starts with a shebang line, so that it can be executed as it is.
    Raises ModuleNotFoundError if there is no such package.
    """
    buffer = io.BytesIO()
    buffer.write(_SHEBANG)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        _add(archive, "__main__.py", _MAIN.format(package=package).encode())
        for path, content in sorted(_sources(resources.files(package), package)):
            _add(archive, path, content)
    return buffer.getvalue()


def _sources(directory: Traversable, prefix: str) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for entry in directory.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            found += _sources(entry, f"{prefix}/{entry.name}")
        elif entry.name.endswith(".py"):
            found.append((f"{prefix}/{entry.name}", entry.read_bytes()))
    return found


def _add(archive: zipfile.ZipFile, path: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(path, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = 3  # Unix, on every system that packs
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content, compresslevel=9)
