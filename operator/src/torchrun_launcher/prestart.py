"""Starts the server: from a hook at the start of the container, or from the first shim that finds none."""

from __future__ import annotations

import os

from torchrun_launcher import ARCHIVE
from torchrun_launcher.interpreter import interpreter_for
from torchrun_launcher.log import log
from torchrun_launcher.protocol import address_of

TYPE_CHECKING = False  # the module typing is slow to import
if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

FIRST_PROCESS = 1  # of the container: its stderr is the log of the container, and all other processes end with it


def run(program: str) -> None:
    """Leave a server behind for the workers of `program`. Never fails: an error must not end the container."""
    try:
        interpreter = interpreter_for(program)
        start_server(interpreter, address_of(interpreter, os.environ), FIRST_PROCESS, os.environ)
    except Exception as error:
        log(f"torch is not loaded ahead: {error}", FIRST_PROCESS)  # the output of the hook itself goes nowhere


def start_server(interpreter: str, address: bytes, watched: int, environment: Mapping[str, str]) -> None:
    """Start a server that is a child of no process here, and that exits with the watched process.

    If a server listens at that address already, the new one exits at once.
    """
    import subprocess  # noqa: PLC0415 - slow, and needed once for each node

    variables = dict(environment)
    prepare(variables)
    command = [interpreter, "-u", ARCHIVE, "--serve", address[1:].decode(), str(watched)]
    child = os.fork()
    if child == 0:
        try:
            quiet = subprocess.DEVNULL
            subprocess.Popen(command, env=variables, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def prepare(variables: MutableMapping[str, str]) -> None:
    """Set the variables that a server needs before it loads torch."""
    processes = variables.get("PET_NPROC_PER_NODE", "")
    if processes.isdecimal() and processes != "1":
        variables.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does
    # With it, the question whether there are GPUs does not initialize the driver, which does not survive a fork.
    variables["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
