"""Finds the Python interpreter that workers run with."""

from __future__ import annotations

import os

from torchrun_launcher import ColdStartError


def interpreter_of(agent: int) -> str:
    """Return the Python that runs the agent, as it was called: a resolved link would leave a virtual environment.

    Raises ColdStartError if that process runs no Python.
    """
    with open(f"/proc/{agent}/cmdline", "rb") as file:
        name = os.fsdecode(file.read().split(b"\0")[0])
    found = os.path.join(os.readlink(f"/proc/{agent}/cwd"), name) if "/" in name else _which(name)
    if not found or "python" not in os.path.basename(found) or not os.access(found, os.X_OK):
        raise ColdStartError(f"process {agent}, which starts this worker, is not a Python: {name}")
    return found


def interpreter_for(program: str) -> str:
    """Return the Python that the program will run with: the program itself, or the one that its first line names.

    Raises ColdStartError if that cannot be found out.
    """
    found = _which(program)
    if found is None:
        raise ColdStartError(f"{program} is not in PATH")
    if os.path.basename(found).startswith("python"):
        return found
    with open(found, "rb") as file:
        lines = os.fsdecode(file.read(4096)).splitlines()
    python = _named_in(lines)
    if not os.path.basename(python).startswith("python"):
        raise ColdStartError(f"{found} does not begin with #! and the path of a Python")
    path = _which(python)
    if path is None:
        raise ColdStartError(f"{found} names {python}, which is not there")
    return path


def _named_in(lines: list[str]) -> str:
    """Return the interpreter that a script names in its first lines; empty if there is none."""
    if not lines or not lines[0].startswith("#!"):
        return ""
    words = lines[0][2:].split() or [""]
    name = os.path.basename(words[0])
    if name == "sh" and len(lines) > 1 and lines[1].startswith("'''exec'"):
        words = lines[1].split()[1:]  # pip writes this where the path is too long for a first line
    elif name == "env":
        words = [word for word in words[1:] if not word.startswith("-")]
    return words[0].strip("\"'") if words else ""


def _which(program: str) -> str | None:
    import shutil  # noqa: PLC0415 - slow, and seldom needed

    return shutil.which(program)
