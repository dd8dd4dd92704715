"""The first process of a container: loads torch once, forks torchrun's agent from it, and serves the workers.

It has two stages. The first runs with any Python of the image, and finds the one that torchrun runs with. The second is
the server, with that Python. The container ends as the agent ends. On any problem the process becomes the command.
"""

from __future__ import annotations

import os
import sys

from torchrun_launcher import ARCHIVE, ColdStartError
from torchrun_launcher.interpreter import interpreter_for
from torchrun_launcher.log import log

TYPE_CHECKING = False  # the module typing is slow to import
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

PROGRAM_NOT_FOUND = 127  # as in a shell


def run(command: list[str]) -> NoReturn:
    """Go on with the Python of the command, which starts torchrun. Never returns."""
    try:
        interpreter = interpreter_for(command[0])
    except (ColdStartError, OSError) as error:
        become(command, os.environ, str(error))
    os.execv(interpreter, [interpreter, "-u", ARCHIVE, "--node", *command])  # noqa: S606


def become(command: list[str], environment: Mapping[str, str], reason: str) -> NoReturn:
    """Turn into the command, as if there was no launcher: its workers are plain processes too."""
    if environment.get("TORCHRUN_FAULT_TOLERANCE") == "PerStep":
        log(f"faultTolerance.mode PerStep needs the launcher, which cannot start torchrun here: {reason}")
        sys.exit(1)  # its workers would belong to no world
    log(f"this node starts cold: {reason}")
    variables = {name: value for name, value in environment.items() if name != "PYTHON_EXEC"}
    try:
        os.execvpe(command[0], command, variables)  # noqa: S606
    except FileNotFoundError:
        log(f'exec: "{command[0]}": executable file not found in $PATH')  # the words of container runtimes
    except OSError as error:
        log(f'exec: "{command[0]}": {error.strerror}')
    sys.exit(PROGRAM_NOT_FOUND)
