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
    return run(*arguments, "--namespace", kubectl.namespace, kubeconfig=kubectl.kubeconfig)


def run(*arguments: str, kubeconfig: Path | None = None, directory: Path | None = None) -> str:
    """Run a command, and return what it printed. Raises CliError."""
    env = {**os.environ, **({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {}), "NO_COLOR": "1"}
    done = subprocess.run(
        [str(_PROGRAM), *arguments], env=env, cwd=directory, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CliError(f"kubectl torchrun {' '.join(arguments)}: exit {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout
