"""Warm starts: the program in a node's pod that forks torchrun's workers from a process that has torch loaded."""

from importlib import resources

PROGRAM = "python.py"


def program_source() -> str:
    """Return the program that stands in for Python in the node pods of jobs that start warm."""
    return resources.files(__name__).joinpath(PROGRAM).read_text(encoding="utf-8")
