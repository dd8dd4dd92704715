"""Reads errors of pydantic, and checks the name and the size of a job.

The rules on a feature are beside its part in `render`, and `render.validation` collects all rules. The CRD's rules
reject most of it at the API server. The checks here cover jobs that were stored before a rule existed, and what CEL
cannot express.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from pydantic import ValidationError

from torchrun_operator.api import remedies
from torchrun_operator.api.names import (
    MAX_JOB_NAME_LENGTH,
    MAX_NODES,
    MIN_PROGRESS_DEADLINE,
)
from torchrun_operator.api.v1alpha1 import FailureAction, TorchrunJob, TorchrunJobSpec


class Problem(NamedTuple):
    """One problem of a job."""

    field: str
    """Path of the field, such as ``spec.nnodes``."""
    message: str
    """What is wrong, and the fix."""

    def __str__(self) -> str:
        """Format the problem as the API server does."""
        return f"{self.field}: {self.message}"


def problems_of(error: ValidationError, prefix: str = "") -> list[Problem]:
    """Turn the errors of pydantic into problems. ``prefix`` is the path of the object, such as ``spec``."""
    found = [
        Problem(_path(prefix, detail["loc"]), _sentence(detail["type"], detail["msg"])) for detail in error.errors()
    ]
    return list(dict.fromkeys(found))


def readable(error: ValidationError, prefix: str = "") -> str:
    """Format the errors of pydantic in one line. ``prefix`` is the path of the object, such as ``spec``."""
    return "; ".join(str(problem) for problem in problems_of(error, prefix))


def resource_problems(job: TorchrunJob) -> list[Problem]:
    """Return what is wrong with the name and the size of the job. `render.validation` has the other rules."""
    spec = job.spec
    return [*_name(job.name), *_replicas(spec), *_failure_policy(spec), *_deadlines(spec), *_spares(spec)]


def _path(prefix: str, location: tuple[int | str, ...]) -> str:
    path = prefix
    for key in location:
        path += f"[{key}]" if isinstance(key, int) else f".{key}" if path else key
    return path


def _sentence(kind: str, message: str) -> str:
    match kind:
        case "missing":
            return "this field is required"
        case "extra_forbidden":
            return "unknown field; kubectl explain lists the known fields"
        case "value_error":
            return message.removeprefix("Value error, ")
        case _:
            return message[0].lower() + message[1:]


def _name(name: str) -> Iterator[Problem]:
    if len(name) > MAX_JOB_NAME_LENGTH or not re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield Problem("metadata.name", remedies.JOB_NAME)


def _replicas(spec: TorchrunJobSpec) -> Iterator[Problem]:
    if spec.replicas is None:
        return
    if spec.replicas < 1:
        yield Problem("spec.replicas", remedies.REPLICAS_BELOW_ONE)
    elif not spec.min_nodes <= spec.replicas <= spec.max_nodes:
        words = f"must be from MIN to MAX of spec.nnodes, which is {spec.nnodes}; change this field or spec.nnodes"
        yield Problem("spec.replicas", words)


def _deadlines(spec: TorchrunJobSpec) -> Iterator[Problem]:
    if 0 < (spec.progress_deadline_seconds or 0) < MIN_PROGRESS_DEADLINE:
        yield Problem("spec.progressDeadlineSeconds", remedies.PROGRESS_DEADLINE)


def _failure_policy(spec: TorchrunJobSpec) -> Iterator[Problem]:
    for number, rule in enumerate(spec.failure_policy.rules):
        if rule.action is FailureAction.IGNORE and not rule.conditional:
            yield Problem(f"spec.failurePolicy.rules[{number}]", remedies.IGNORE_ALL)


def _spares(spec: TorchrunJobSpec) -> Iterator[Problem]:
    if spec.max_nodes + spec.elasticity.spares > MAX_NODES:
        yield Problem("spec.elasticity.spares", remedies.SPARES)
