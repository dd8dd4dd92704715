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
        words = file.readline(4096).split()
    if not words or not words[0].startswith(b"#!/") or b"python" not in os.path.basename(words[0]):
        raise ColdStartError(f"{found} does not begin with #! and the path of a Python")
    return os.fsdecode(words[0][2:])


def _which(program: str) -> str | None:
    import shutil  # noqa: PLC0415 - slow, and seldom needed

    return shutil.which(program)
