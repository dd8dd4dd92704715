"""A real API server and the operator reject invalid manifests, and their messages explain the fix."""

import copy
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from torchrun_cli.checking.checks import check
from torchrun_operator.api.v1alpha1 import job_of
from torchrun_operator.api.validation import problems_of
from torchrun_operator.render.validation import problems

BASE: dict[str, Any] = {
    "apiVersion": "torchrun.dev/v1alpha1",
    "kind": "TorchrunJob",
    "metadata": {"name": "digits", "namespace": "default"},
    "spec": {
        "nnodes": "2:4",
        "files": [{"path": "/workspace/train.py", "content": "print(1)"}],
        "template": {
            "spec": {
                "containers": [{"name": "trainer", "image": "training", "command": ["torchrun", "/workspace/train.py"]}]
            }
        },
    },
}
JOBS = "/apis/torchrun.dev/v1alpha1/namespaces/default/torchrunjobs"


@dataclass(frozen=True)
class Case:
    """One manifest, and the expected answers."""

    name: str
    patch: dict[str, Any]
    start: dict[str, Any] | None = None
    field: str = ""
    words: tuple[str, ...] = ()
    operator: Any = None

    @property
    def manifest(self) -> dict[str, Any]:
        manifest: dict[str, Any] = merged(BASE, self.patch)
        return manifest

    @property
    def operator_says(self) -> tuple[str, list[str]] | None:
        """The field and message of the operator; None if the operator does not check it."""
        if self.operator == "nothing" or self.start is not None:
            return None
        if self.operator is None:
            return self.field, [word for word in self.words if not word.startswith(("greater than", "less than"))]
        return self.operator["field"], self.operator["words"]


def merged(target: Any, patch: Any) -> Any:
    """Apply a JSON merge patch."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


class _Loader(yaml.SafeLoader):
    """YAML with !repeat."""


def _repeat(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    assert isinstance(node, yaml.SequenceNode)
    value, times = loader.construct_sequence(node, deep=True)
    if isinstance(value, str):
        return value * times
    return [{key: text.replace("#", str(index)) for key, text in value.items()} for index in range(times)]


_Loader.add_constructor("!repeat", _repeat)


def cases(directory: str, *files: str) -> list[Any]:
    folder = Path(__file__).parent / directory
    paths = [folder / file for file in files] or sorted(folder.glob("*.yaml"))
    found = itertools.chain.from_iterable(yaml.load(path.read_text(), _Loader) for path in paths)
    return [pytest.param(Case(**case), id=case["name"]) for case in found]


BAD = cases("bad_manifests")
GOOD = cases("good_manifests")
BAD_FOR_SERVER = [param for param in BAD if param.values[0].field]
BAD_FOR_OPERATOR = [param for param in BAD if param.values[0].operator_says is not None]


def send(server: Any, case: Case) -> tuple[int, dict[str, Any]]:
    """Create or change the job as kubectl does. Leaves no object."""
    if case.start is None:
        status, answer = server.request("POST", JOBS, case.manifest, fieldValidation="Strict", dryRun="All")
        return status, answer
    started = merged(BASE, case.start)
    path = f"{JOBS}/{started['metadata']['name']}"
    status, answer = server.request("POST", JOBS, started, fieldValidation="Strict")
    assert status == 201, answer["message"]
    try:
        return server.request("PATCH", path, case.patch, fieldValidation="Strict")  # type: ignore[no-any-return]
    finally:
        server.request("DELETE", path)


@pytest.mark.integration
@pytest.mark.parametrize("case", BAD_FOR_SERVER)
def test_server_refuses(torchrunjobs: Any, case: Case) -> None:
    status, answer = send(torchrunjobs, case)
    assert status in (400, 422), f"accepted: {answer}"
    said = [line for line in complaints(answer) if case.field in fields(line)]
    assert said, f"{case.field} is not named: {answer['message']}"
    missing = [word for word in case.words if not any(word in line for line in said)]
    assert not missing, f"{missing} not in {said}"


@pytest.mark.integration
@pytest.mark.parametrize("case", GOOD)
def test_server_accepts(torchrunjobs: Any, case: Case) -> None:
    status, answer = send(torchrunjobs, case)
    assert status in (200, 201), answer["message"]


@pytest.mark.parametrize("case", BAD_FOR_OPERATOR)
def test_operator_refuses(case: Case) -> None:
    says = case.operator_says
    assert says is not None
    field, words = says
    said = [problem for problem in operator_problems(case.manifest) if problem.field == field]
    assert said, operator_problems(case.manifest)
    assert not [word for word in words if not any(word in problem.message for problem in said)], said


@pytest.mark.parametrize("case", GOOD)
def test_operator_accepts(case: Case) -> None:
    assert operator_problems(merged(merged(BASE, case.start or {}), case.patch)) == []


@pytest.mark.parametrize("case", [param for param in BAD if param.values[0].start is None])
def test_the_command_line_refuses(case: Case) -> None:
    """Without a cluster, it finds what the API server or the operator would find."""
    expected = {case.field, *(case.operator_says or ("",))[:1]} - {""}
    assert expected & {problem.field for problem in check(case.manifest)}, check(case.manifest)


@pytest.mark.parametrize("case", GOOD)
def test_the_command_line_accepts(case: Case) -> None:
    assert check(merged(merged(BASE, case.start or {}), case.patch)) == []


def operator_problems(manifest: dict[str, Any]) -> list[Any]:
    try:
        return problems(job_of({"spec": {}} | manifest))
    except ValidationError as error:
        return problems_of(error)


def complaints(answer: dict[str, Any]) -> list[str]:
    """Split the answer into messages that begin with their fields."""
    causes = answer.get("details", {}).get("causes", [])
    return [f"{cause.get('field', '')}: {cause.get('message', '')}" for cause in causes] or answer["message"].split(
        ", "
    )


def fields(complaint: str) -> set[str]:
    """The field at the beginning, or in quotes if the server does not know it."""
    return {complaint.split(": ", 1)[0], *complaint.split('"')[1::2]}


def test_there_are_enough_cases() -> None:
    assert len(BAD_FOR_SERVER) >= 70
    names = [param.id for param in BAD + GOOD]
    assert sorted(set(names)) == sorted(names)
