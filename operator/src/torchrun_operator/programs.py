"""Packs each program that runs in the pods of a job as one zip archive: the same bytes for the same source."""

import io
import zipfile
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip archive can hold. Real times would change the bytes."""
_SHEBANG = b"#!/usr/bin/env python3\n"
SEARCH = "search.sh"
"""A program with a file of this name begins with its text in place of the line #!: a shell script that finds Python."""
# What `python3 -m` calls. runpy.run_module would take the module __main__ away again before the interpreter exits.
_MAIN = "import runpy\n\nrunpy._run_module_as_main({package!r}, alter_argv=False)\n"


def zipapp(package: str) -> bytes:
    """Return an executable zip archive that runs ``python3 -m package`` without an installation.

    It contains Python sources only. Raises ModuleNotFoundError if there is no such package.
    """
    directory = resources.files(package)
    sources = dict(sorted(_sources(directory, package)))
    search = directory / SEARCH
    beginning = search.read_bytes() if search.is_file() else _SHEBANG
    return executable({"__main__.py": _MAIN.format(package=package).encode(), **sources}, beginning)


def executable(files: Mapping[str, bytes], beginning: bytes = _SHEBANG) -> bytes:
    """Return a zip archive of these files, by path, that runs its ``__main__.py``.

    It begins with a line #! or a script that starts a Python with it, so that it can be executed as it is.
    """
    buffer = io.BytesIO()
    buffer.write(beginning)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path, content in files.items():
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
