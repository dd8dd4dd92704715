"""Finds what a Dockerfile takes from its build context. The image is rebuilt when that changes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from pathlib import Path

# Never part of an image.
_JUNK = shutil.ignore_patterns("__pycache__", "*.egg-info", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".venv")
_TIME = 1_577_836_800  # The year 2020: zip archives, and thus wheels, support no time before 1980.


def instructions(text: str) -> list[tuple[str, str]]:
    """Instructions and their arguments, with continued lines joined and comments dropped."""
    kept = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\[ \t]*\n", " ", "\n".join(kept))
    words = (line.strip().partition(" ") for line in joined.splitlines() if line.strip())
    return [(name.upper(), arguments.strip()) for name, _, arguments in words]


def sources(text: str) -> list[str]:
    """Paths and patterns, relative to the context, that a Dockerfile copies or mounts from it."""
    found: set[str] = set()
    for name, arguments in instructions(text):
        if name in {"COPY", "ADD"}:
            found.update(_copied(arguments))
        elif name == "RUN":
            found.update(_mounted(arguments))
    return sorted(found)


def _copied(arguments: str) -> list[str]:
    flags = re.match(r"(?:--\S+\s+)*", arguments)
    assert flags is not None
    if "--from=" in flags[0]:
        return []
    rest = arguments[flags.end() :]
    names: list[str] = json.loads(rest) if rest.startswith("[") else shlex.split(rest)
    return [name for name in names[:-1] if "://" not in name]


def _mounted(arguments: str) -> list[str]:
    found = []
    for options in re.findall(r"--mount=(\S+)", arguments):
        fields = dict(option.partition("=")[::2] for option in options.split(","))
        if fields.get("type", "bind") == "bind" and "from" not in fields:
            found.append(fields.get("source") or fields.get("src") or ".")
    return found


def stage(context: Path, names: list[str], target: Path) -> None:
    """Copy the files that these names match in `context`, and its .dockerignore, to the same paths below `target`.

    All times are the same, so that only other contents repeat a build step.
    """
    target.mkdir(parents=True)
    for name in [*names, ".dockerignore"]:
        for path in _matches(context, name):
            copy = target / path.relative_to(context)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, copy, symlinks=True, ignore=_JUNK, dirs_exist_ok=True)
            else:
                shutil.copy2(path, copy, follow_symlinks=False)
    for path in [target, *target.rglob("*")]:
        os.utime(path, (_TIME, _TIME), follow_symlinks=False)


def _matches(context: Path, name: str) -> list[Path]:
    pattern = str(Path("/", name).relative_to("/"))
    return [context] if pattern == "." else sorted(context.glob(pattern))
