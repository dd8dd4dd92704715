"""Jobs in trouble, as tables in YAML: what is wrong with them, and what their status must say. Pure."""

import copy
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from support.kubectl import Object

JOB = "job"
"""The name of the job of every case."""
SCRIPT = "/workspace/train.py"
_HINT = re.compile(r"kubectl (?:-n \S+ )?(?:logs|get|describe)(?: [-\w./=]+)+")
_GROWTH = 1.5
"""Starts differ by seconds on a busy computer. Waits that double grow more than that."""
_BOUNDS = re.compile(r"(\d*)\.\.(\d*)")


@dataclass(frozen=True)
class Case:
    """A job in trouble, and the steps that show what it says."""

    name: str
    what: str
    """What is wrong, in a few words."""
    steps: Sequence[Mapping[str, Any]]
    spec: Mapping[str, Any] = field(default_factory=dict)
    """Merged into the spec of the job."""
    pod: Mapping[str, Any] = field(default_factory=dict)
    """Merged into the spec of the pod template."""
    trainer: Mapping[str, Any] = field(default_factory=dict)
    """Merged into the trainer container."""
    labels: Mapping[str, str] = field(default_factory=dict)
    beside: Sequence[Object] = ()
    """Further containers."""
    script: str = ""
    objects: Sequence[Object] = ()
    """Applied before the job."""
    never: Sequence[Mapping[str, Any]] = ()
    """Patterns that no status of the job may match."""


def read(path: Path, names: Mapping[str, str]) -> list[Case]:
    """Read the cases of a file. Replace $NAME by the value of `names`."""
    text = path.read_text()
    for name, value in names.items():
        text = text.replace(f"${name}", value)
    return [Case(**case) for case in yaml.safe_load(text)]


def job_of(case: Case, image: str) -> Object:
    """Return the manifest of the job."""
    trainer = {
        "name": "trainer",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["torchrun", SCRIPT],
        "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
    }
    helpers = [{"image": image, "imagePullPolicy": "IfNotPresent"} | each for each in case.beside]
    pod = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 5,
        "containers": [merged(trainer, case.trainer), *helpers],
    }
    spec = {
        "nnodes": "1",
        "files": [{"path": SCRIPT, "content": case.script}] if case.script else [],
        "template": {"metadata": {"labels": dict(case.labels)}, "spec": merged(pod, case.pod)},
    }
    return {
        "apiVersion": "torchrun.dev/v1alpha1",
        "kind": "TorchrunJob",
        "metadata": {"name": JOB},
        "spec": merged(spec, case.spec),
    }


def merged(target: Any, patch: Any) -> Any:  # noqa: ANN401 - any JSON
    """Apply a JSON merge patch."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def readable(status: Object) -> Object:
    """Return a status whose conditions are found by their type."""
    return {**status, "conditions": {c["type"]: c for c in status.get("conditions") or []}}


def brief(status: Object) -> Object:
    """Return what a person reads of a status."""
    said = {c["type"]: f"{c['status']} {c['reason']}: {c['message']}" for c in status.get("conditions") or []}
    return {**{key: status.get(key) for key in ("state", "message", "restarts", "lastFailure")}, "conditions": said}


def differences(pattern: Any, seen: Any, path: str = "") -> list[str]:  # noqa: ANN401 - any JSON
    """Return how a value differs from a pattern; empty if it matches.

    A mapping must have the keys of the pattern. A text that begins with ~ is a regular expression, 2..4, 2.. and ..4
    are bounds, null is absence, and all patterns of a list must match.
    """
    if isinstance(pattern, Mapping):
        found = seen if isinstance(seen, Mapping) else {}
        return [line for key, value in pattern.items() for line in differences(value, found.get(key), f"{path}.{key}")]
    if isinstance(pattern, list):
        return [line for each in pattern for line in differences(each, seen, path)]
    if isinstance(pattern, str) and pattern.startswith("~"):
        matches = isinstance(seen, str) and re.search(pattern[1:], seen) is not None
    elif isinstance(pattern, str) and (bounds := _BOUNDS.fullmatch(pattern)):
        number = seen if isinstance(seen, int) else 0
        matches = int(bounds[1] or 0) <= number and (not bounds[2] or number <= int(bounds[2]))
    else:
        matches = seen == pattern
    return [] if matches else [f"{path.lstrip('.')}: {seen!r} is not {pattern!r}"]


def hints(status: Object) -> list[str]:
    """Return the commands that the messages of a status tell people to run."""
    messages = [c.get("message", "") for c in status.get("conditions") or []]
    found = [command.rstrip(".,;") for message in messages for command in _HINT.findall(message)]
    return list(dict.fromkeys(found))


def rises(history: Sequence[tuple[float, Object]], path: str) -> list[tuple[float, int]]:
    """Return when a count in the status reached each of its values, from the first one on that is above 0."""
    found: list[tuple[float, int]] = []
    for at, status in history:
        value: Any = status
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, int) and value > (found[-1][1] if found else 0):
            found.append((at, value))
    return found


def pauses_grow(reached: Sequence[tuple[float, int]]) -> bool:
    """Whether the last pause between two rises is much longer than the first one. Fewer than two pauses do not grow."""
    pauses = [after - before for (before, _), (after, _) in itertools.pairwise(reached)]
    return len(pauses) > 1 and pauses[-1] >= _GROWTH * pauses[0]
