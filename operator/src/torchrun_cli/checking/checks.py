"""All problems of a job at once: those of its structure, then those that the rules of the operator find."""

import copy
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from torchrun_cli.checking.structure import Finding, Location, findings, schema
from torchrun_operator.api.names import API_VERSION, GROUP, KIND
from torchrun_operator.api.v1alpha1 import job_of
from torchrun_operator.api.validation import Problem, problems_of
from torchrun_operator.render.validation import problems

_GENERATED = "xxxxx"
"""As long as what the API server appends to generateName."""
_FILLERS: dict[str, Any] = {"nnodes": "1:1000", "template": {}}
"""Stand in for required fields that cannot be read, so that the rules on the other fields can be checked."""
_OF_THE_SIZE = {"spec.replicas", "spec.elasticity.spares"}
"""Fields whose rules need nnodes."""


def check(raw: dict[str, Any]) -> list[Problem]:
    """Return the problems of an object; empty if the API server and the operator accept it.

    A field with a wrong type hides only itself: the rules are checked on the rest, if there is enough of it.
    """
    wrong_kind = _kind(raw)
    if wrong_kind:
        return wrong_kind
    found = [Problem(_path(finding.location), finding.message) for finding in findings(raw, schema())]
    metadata = raw.get("metadata")
    if isinstance(metadata, dict) and not metadata.get("name") and not metadata.get("generateName"):
        found.append(Problem("metadata.name", "this field is required"))
    more = _rule_problems(_without(raw, findings(raw, schema())))
    fields = [problem.field for problem in found]
    found += [problem for problem in map(_renamed(raw), more) if not any(_same(problem.field, each) for each in fields)]
    return list(dict.fromkeys(found))


def _kind(raw: dict[str, Any]) -> list[Problem]:
    kind, version = raw.get("kind"), raw.get("apiVersion")
    if kind != KIND:
        words = f"write {KIND}" if kind is None else f"{kind} is no {KIND}; 'kubectl torchrun convert' may convert it"
        return [Problem("kind", words)]
    if version != API_VERSION:
        is_ours = isinstance(version, str) and version.startswith(f"{GROUP}/")
        words = f"write {API_VERSION}" + (", the version that this program knows" if is_ours else "")
        return [Problem("apiVersion", words)]
    return []


def _rule_problems(raw: dict[str, Any]) -> list[Problem]:
    """Return what pydantic and the rules find, on as much of the job as can be read."""
    metadata = raw["metadata"] if isinstance(raw.get("metadata"), dict) else {}
    name = metadata.get("name") or f"{metadata.get('generateName', 'x')}{_GENERATED}"
    named = {**raw, "metadata": {**metadata, "name": name, "namespace": "default"}}
    try:
        return problems(job_of(named))
    except ValidationError as error:
        unreadable = problems_of(error)
        rest = _without(named, [Finding(tuple(detail["loc"]), "") for detail in error.errors()])
    try:
        job = job_of({**rest, "spec": {**_FILLERS, **(rest.get("spec") or {})}})
    except ValidationError:
        return unreadable
    filled = job.spec.nnodes == _FILLERS["nnodes"]
    return [*unreadable, *(each for each in problems(job) if not (filled and each.field in _OF_THE_SIZE))]


def _without(raw: dict[str, Any], unwanted: Iterable[Finding]) -> dict[str, Any]:
    """Return a copy without the fields that are wrong. Items of lists stay, so that the others keep their positions."""
    result = copy.deepcopy(raw)
    for finding in unwanted:
        _remove(result, finding.location)
    return result


def _remove(value: Any, location: Location) -> None:  # noqa: ANN401 any part of an object
    while location and isinstance(location[-1], int):
        location = location[:-1]
    for key in location[:-1]:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(value, dict) and location:
        value.pop(location[-1], None)


def _renamed(raw: dict[str, Any]) -> Any:  # noqa: ANN401 a function
    """Return a function that lets problems of the name point to generateName, if the user wrote that."""
    metadata = raw.get("metadata")
    generated = isinstance(metadata, dict) and not metadata.get("name") and metadata.get("generateName")

    def renamed(problem: Problem) -> Problem:
        return (
            problem._replace(field="metadata.generateName")
            if generated and problem.field == "metadata.name"
            else problem
        )

    return renamed


def _same(field: str, other: str) -> bool:
    """Whether one field is the other, or contains it."""
    short, long = sorted((field, other), key=len)
    return short == long or (long.startswith(short) and long[len(short)] in ".[")


def _path(location: Location) -> str:
    path = ""
    for key in location:
        path += f"[{key}]" if isinstance(key, int) else f".{key}" if path else key
    return path
