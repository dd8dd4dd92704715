"""Reads local files for `files[].localPath`: small text files inside one directory, nothing else."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from torchrun_cli.errors import CliError, Exit
from torchrun_cli.template.reading import nearest

MOST_BYTES: Final = 900 * 1024
"""Of one file, and of all files of a job together."""


def read_local(directory: Path, name: str, where: str, most: int = MOST_BYTES) -> tuple[str, list[str]]:
    """Return the text of a file below a directory, with line ends of Unix, and notes on what was changed.

    `where` names the field. Raises CliError if there is no such file, if it lies elsewhere, or if it is no small text.
    """
    path = _inside(directory, name, where)
    content = _read(path, name, where, most)
    return _text(content, name, where)


def read_input(path: Path, most: int) -> str:
    """Return the text of a file that the user names. Raises CliError if there is none, or if it is no small text."""
    if not path.exists() and not path.is_symlink():
        siblings = [str(each) for each in sorted(path.parent.glob("*"))[:1000]] if path.parent.is_dir() else []
        raise CliError(f"{path} does not exist{nearest(str(path), siblings)}", Exit.USAGE)
    if path.is_dir():
        raise CliError(f"{path} is a directory; name a file in it", Exit.USAGE)
    text, _ = _text(_read(path, path.name, str(path.parent), most, devices=True), path.name, str(path.parent))
    return text


def _inside(directory: Path, name: str, where: str) -> Path:
    if not name or "\0" in name:
        raise CliError(f"{where}: write the path of a file", Exit.USAGE)
    try:
        base = directory.resolve(strict=True)
        path = (base / Path(name).expanduser()).resolve()
        exists = path.exists()
    except (OSError, RuntimeError) as error:
        raise CliError(f"{where}: {name} cannot be read: {_reason(error)}", Exit.USAGE) from None
    if not path.is_relative_to(base):
        words = f"{name} is outside of {directory}; move it there, or name another directory with --local-dir"
        raise CliError(f"{where}: {words}", Exit.USAGE)
    if not exists:
        raise CliError(f"{where}: {base / name} does not exist{nearest(name, _names(base))}", Exit.USAGE)
    return path


def _names(base: Path) -> Sequence[str]:
    """Return the names of files below a directory, for a suggestion; not of a tree without end."""
    found: list[str] = []
    for folder, folders, files in os.walk(base):
        folders[:] = [each for each in folders if not each.startswith(".")]
        found += [str((Path(folder) / each).relative_to(base)) for each in files]
        if len(found) > 2000:
            break
    return found


def _read(path: Path, name: str, where: str, most: int, *, devices: bool = False) -> bytes:
    """Read a regular file. Opening does not wait, as it would for a pipe. `devices`: the user named this file."""
    try:
        file = os.open(path, os.O_RDONLY | (0 if devices else getattr(os, "O_NONBLOCK", 0)))
        with os.fdopen(file, "rb") as opened:
            kind = os.fstat(opened.fileno())
            if not devices and not stat.S_ISREG(kind.st_mode):
                raise CliError(f"{where}: {name} is not a regular file", Exit.USAGE)
            content = opened.read(most + 1)
    except OSError as error:
        raise CliError(f"{where}: {name} cannot be read: {_reason(error)}", Exit.USAGE) from None
    if len(content) > most:
        size = f"{max(kind.st_size, len(content)) / 1024:,.0f} KiB"
        words = f"{name} has {size}, more than {most // 1024} KiB; put large files into the image or on a volume"
        raise CliError(f"{where}: {words}", Exit.USAGE)
    return content


def _text(content: bytes, name: str, where: str) -> tuple[str, list[str]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        words = f"byte {error.start} is not UTF-8; put binary files into the image or on a volume"
        raise CliError(f"{where}: {name} is not a text: {words}", Exit.USAGE) from None
    if "\0" in text:
        words = f"byte {content.index(0)} is 0; put binary files into the image or on a volume"
        raise CliError(f"{where}: {name} is not a text: {words}", Exit.USAGE)
    if "\r\n" in text:
        return text.replace("\r\n", "\n"), [f"{name}: line ends of Windows become those of Linux"]
    return text, []


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
