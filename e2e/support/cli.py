"""`kubectl torchrun` as a user runs it: the installed program, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

from support.kubectl import Kubectl

_PROGRAM = Path(sys.executable).with_name("kubectl-torchrun")


class CliError(AssertionError):
    """The program failed. The message has its exit code and what it said."""


def torchrun(kubectl: Kubectl, *arguments: str) -> str:
    """Run a command in the namespace, and return what it printed. Raises CliError."""
    env = {**os.environ, "KUBECONFIG": str(kubectl.kubeconfig), "NO_COLOR": "1"}
    argv = [str(_PROGRAM), *arguments, "--namespace", kubectl.namespace]
    done = subprocess.run(argv, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        raise CliError(f"kubectl torchrun {' '.join(arguments)}: exit {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout
