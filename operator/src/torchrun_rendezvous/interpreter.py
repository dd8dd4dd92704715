"""Finds the Python of the image that torchrun runs with, and continues in it. Any Python 3.7 can run this module."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

TYPE_CHECKING = False  # the module typing is slow to import
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import NoReturn

PLACES = ("/opt/venv/bin", "/venv/bin", "/opt/conda/bin", "/usr/local/bin", "/usr/bin")
"""Where images have a Python beside the one that PATH names."""
TERMINATION_LOG = Path("/dev/termination-log")
CHECK_SECONDS = 60.0
CHECK = """
import importlib.util, sys
sys.path = [path for path in sys.path if path]
found = importlib.util.find_spec("torch")
if sys.version_info < (3, 10):
    sys.exit("Python %d.%d; 3.10 or newer is needed" % sys.version_info[:2])
if found is None or found.origin is None:
    sys.exit("No module named torch")
"""


def settle(arguments: list[str]) -> None:
    """Return if this Python is the right one. Otherwise become it. Exit if there is none.

    With ``--search DIRECTORY...`` it is the first one with torch that the job's torchrun may run with: the command of
    the job names these directories. Without, a person has chosen this Python.
    """
    searching = arguments[:1] == ["--search"]
    found = candidates(arguments[1:], sys.executable) if searching else iter([sys.executable])
    wrong = []
    for python in dict.fromkeys(found):
        problem = problem_of(python)
        if problem:
            wrong.append(f"{python}: {problem}")
        elif python == sys.executable:
            return
        else:
            os.execv(python, [python, sys.argv[0]])  # noqa: S606
    fail(wrong)


def candidates(directories: Iterable[str], current: str) -> Iterator[str]:
    """Yield the interpreters to try, the most likely first."""
    directories = list(directories)
    for torchrun in (shutil.which("torchrun", path=":".join(directories)), shutil.which("torchrun")):
        python = interpreter_of(torchrun) if torchrun else None
        if python:
            yield python
    environments = filter(None, (os.environ.get(name) for name in ("VIRTUAL_ENV", "CONDA_PREFIX")))
    for directory in (*directories, *(f"{environment}/bin" for environment in environments)):
        yield from existing(directory)
    yield current
    for directory in PLACES:
        yield from existing(directory)


def existing(directory: str) -> Iterator[str]:
    """Yield the Python of that directory, if there is one."""
    python = f"{directory}/python3"
    if os.access(python, os.X_OK):
        yield python


def interpreter_of(script: str) -> str | None:
    """Return the Python that a script names in its first lines. None: it names none, so it is no Python script."""
    try:
        with Path(script).open("rb") as file:
            lines = file.read(4096).decode(errors="replace").splitlines()
    except OSError:
        return None
    if not lines or not lines[0].startswith("#!"):
        return None
    words = lines[0][2:].split() or [""]
    if Path(words[0]).name == "sh" and len(lines) > 1 and lines[1].startswith("'''exec'"):
        words = lines[1].split()[1:]  # pip writes this where the path is too long for a first line
    elif Path(words[0]).name == "env":
        words = [word for word in words[1:] if not word.startswith("-")]
    python = words[0].strip("\"'") if words else ""
    if not Path(python).name.startswith("python"):
        return None
    return python if python.startswith("/") else shutil.which(python)


def problem_of(python: str) -> str:
    """Return why the rendezvous host cannot run with that Python. Empty: it can."""
    try:
        done = subprocess.run([python, "-c", CHECK], capture_output=True, timeout=CHECK_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return "" if done.returncode == 0 else said[-1] if said else f"exit code {done.returncode}"


def fail(wrong: list[str]) -> NoReturn:
    """Exit with a message that ends up in the status of the pod."""
    image = os.environ.get("RDZV_IMAGE", "the image")
    message = (
        f"No module named torch in python3 of {image}. Set spec.rendezvous.template.spec.containers to "
        "[{name: rendezvous, command: [PYTHON]}], where PYTHON is the Python that has torch, or name another image "
        f"there. Tried: {'; '.join(wrong)}"
    )
    if TERMINATION_LOG.exists():  # as in a pod
        TERMINATION_LOG.write_text(message[:4000])
    sys.exit(message)
