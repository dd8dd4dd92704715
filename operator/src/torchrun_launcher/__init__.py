"""The launcher: starts torchrun's workers as forks of a process that has torch loaded.

It runs in the image of the job (Linux, Python >= 3.10, standard library only) as one zip archive, which PYTHON_EXEC
names: torchrun starts each worker with that program instead of its own interpreter. The program has these roles:

    first       `--first COMMAND`, the first process of a container whose command is torchrun: finds torchrun's Python
    node        `--node COMMAND`, what it goes on as: a server that also forks torchrun's agent, so that a node loads
                torch once. The agent outlives the store of the rendezvous. The container ends as the agent ends
    prestart    `--start PROGRAM`, a hook at the start of a container whose command is that of its image: leaves a
                server behind, so that torch is loaded before the first worker starts, in a spare too
    server      `--serve ADDRESS PID`: loads modules, then forks a worker for each request. It never touches a GPU
    shim        `-u SCRIPT ARGUMENTS`, what torchrun starts and watches: asks the server for a worker with its own
                environment, files, directory and CPUs, forwards signals to the worker, and exits as the worker exits

A worker is what `python -u script` would be: the script is __main__, and the interpreter exits in the ordinary way.
On any problem the shim becomes the plain interpreter: the start is slower, the worker is the same.

The shim runs before every worker, so its modules import little, and import slow modules only where they need them.
"""

from __future__ import annotations

import os

OLDEST_PYTHON = (3, 10)
ARCHIVE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
"""Path of the archive that contains this package: the program to start for another role."""


class ColdStartError(Exception):
    """A reason to start the worker without the server."""
