"""Rules about absolute paths in the trainer container."""

from pathlib import PurePosixPath

from torchrun_operator.api.names import RESERVED_DIRECTORIES


def is_clean(path: str) -> bool:
    """Whether the path is absolute, without empty parts, dots and colons."""
    parts = path.split("/")
    return path.startswith("/") and not {"", ".", ".."}.intersection(parts[1:]) and ":" not in path


def is_reserved(path: str) -> bool:
    """Whether a clean path lies in a directory of the system or of the operator."""
    return PurePosixPath(path).parts[1] in RESERVED_DIRECTORIES


def is_inside(path: str, directory: str) -> bool:
    """Whether the path lies below that directory."""
    return path.startswith(f"{directory}/")
