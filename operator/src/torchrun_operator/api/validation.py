"""What is wrong with a job, in words that a person can act on."""

from typing import NamedTuple

from pydantic import ValidationError

from torchrun_operator.api.v1alpha1 import TorchrunJob


class Problem(NamedTuple):
    """One thing that is wrong with a job."""

    field: str
    """The field's path, such as ``spec.nnodes``."""
    message: str
    """What is wrong with it and what to write instead."""

    def __str__(self) -> str:
        """Write the problem as the API server does."""
        return f"{self.field}: {self.message}"


def problems_of(error: ValidationError, prefix: str = "") -> list[Problem]:
    """Turn pydantic's errors into problems; ``prefix`` is the path of the object that was read, such as ``spec``."""
    found = [
        Problem(_path(prefix, detail["loc"]), _sentence(detail["type"], detail["msg"])) for detail in error.errors()
    ]
    return list(dict.fromkeys(found))


def readable(error: ValidationError, prefix: str = "") -> str:
    """Write pydantic's errors in one line; ``prefix`` is the path of the object that was read, such as ``spec``."""
    return "; ".join(str(problem) for problem in problems_of(error, prefix))


def _path(prefix: str, location: tuple[int | str, ...]) -> str:
    path = prefix
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _sentence(kind: str, message: str) -> str:
    match kind:
        case "missing":
            return "this field is required"
        case "extra_forbidden":
            return "unknown field; see kubectl explain for the ones there are"
        case "value_error":
            return message.removeprefix("Value error, ")
        case _:
            return message[0].lower() + message[1:]


def problems(job: TorchrunJob) -> list[Problem]:
    """Return what is wrong with a job that has the right types; empty when it can run."""
    return []
