"""`validate` finds all problems at once. The tables of bad manifests are checked in `integration/test_api_rules.py`."""

import copy
from typing import Any

import pytest

from torchrun_cli.checking.checks import check

JOB: dict[str, Any] = {
    "apiVersion": "torchrun.dev/v1alpha1",
    "kind": "TorchrunJob",
    "metadata": {"name": "digits"},
    "spec": {
        "nnodes": "2:4",
        "template": {
            "spec": {"containers": [{"name": "trainer", "image": "train:1", "command": ["torchrun", "a.py"]}]}
        },
    },
}


def job(changes: dict[str, Any]) -> dict[str, Any]:
    """The job with other values at some paths; None removes."""
    result = copy.deepcopy(JOB)
    for path, value in changes.items():
        *parents, last = path.split(".")
        place: Any = result
        for parent in parents:
            place = place[int(parent)] if parent.isdigit() else place[parent]
        if value is None:
            place.pop(last)
        else:
            place[last] = value
    return result


CONTAINER = "spec.template.spec.containers.0"
AT = "spec.template.spec.containers[0]"
NAME = (
    "pods and services use this name: write at most 54 lowercase letters, digits and '-', starting with a letter and "
    "ending with a letter or digit"
)
PRELOAD = "remove this field, or spec.elasticity.warmStart: false: it has no effect without warm starts"


CASES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    ({"metadata": {"generateName": "digits-"}}, []),
    ({"metadata": {"name": "d", "labels": {"a": "b"}, "annotations": {}, "namespace": "ml"}}, []),
    ({"kind": None}, ["kind: write TorchrunJob"]),
    ({"kind": "PyTorchJob"}, ["kind: PyTorchJob is no TorchrunJob; 'kubectl torchrun convert' may convert it"]),
    ({"apiVersion": None}, ["apiVersion: write torchrun.dev/v1alpha1"]),
    (
        {"apiVersion": "torchrun.dev/v9"},
        ["apiVersion: write torchrun.dev/v1alpha1, the version that this program knows"],
    ),
    ({"metadata": None}, ["metadata: this field is required"]),
    ({"metadata": {}}, ["metadata.name: this field is required"]),
    ({"metadata": {"name": "a" * 55}}, [f"metadata.name: {NAME}"]),
    ({"metadata": {"generateName": "a" * 50}}, [f"metadata.generateName: {NAME}"]),
    ({"metadata": {"name": 7}}, ['metadata.name: must be a text; write it in quotes: "7"']),
    ({"metadata.label": {}}, ["metadata.label: unknown field; did you mean 'labels'?"]),
    ({"metadata.labels": {"a": 1}}, ['metadata.labels.a: must be a text; write it in quotes: "1"']),
    ({"spec": None}, ["spec: this field is required"]),
    ({"spec": []}, ["spec: must be a mapping, not a list"]),
    ({"spec.max_restarts": 3}, ["spec.max_restarts: unknown field; did you mean 'maxRestarts'?"]),
    ({"spec.nnodes": None}, ["spec.nnodes: this field is required"]),
    ({"spec.replicas": "3"}, ["spec.replicas: must be a whole number, not a text"]),
    ({f"{CONTAINER}.command": "torchrun a.py"},
     [f"{AT}.command: must be a list; write [A, B], or one item per line after '- '"]),
    ({f"{CONTAINER}.env": [{"name": "A", "value": 1}]},
     [f'{AT}.env[0].value: must be a text; write it in quotes: "1"']),
    ({f"{CONTAINER}.resources": {"limits": {"memory": "plenty"}}},
     [f"{AT}.resources.limits.memory: 'plenty' is not a quantity; write a number such as 2, 500m or 16Gi"]),
    ({"spec.template.spec.containers": {}}, ["spec.template.spec.containers: must be a list, not a mapping"]),
    ({"spec.template.spec.containers": [None]},
     ["spec.template.spec.containers[0]: is empty; write a mapping, or remove the field"]),
    ({"spec.template": "x"}, ["spec.template: must be a mapping, not a text"]),
    ({"spec.files": [{"path": "/a", "content": "x"}, {"path": "/a", "content": "y"}]},
     ["spec.files[1]: another item has the path '/a'; change or remove one"]),
    (
        {"spec.nnodes": "4:2", "spec.frob": 1, "spec.suspend": "no", f"{CONTAINER}.image": None,
         "spec.elasticity": {"preload": ["numpy"], "warmStart": False}, "metadata": {"name": "Digits"},
         "spec.replicas": 2000},
        [
            "spec.frob: unknown field",
            "spec.suspend: must be true or false, not a text",
            'spec.nnodes: MIN is greater than MAX; write "2:4"',
            f"metadata.name: {NAME}",
            f"spec.elasticity.preload: {PRELOAD}",
            f"{AT}.image: write the image of the container",
        ],
    ),
    (
        {"spec.frob": 1, "spec.suspend": "no", f"{CONTAINER}.image": None,
         "spec.elasticity": {"preload": ["numpy"], "warmStart": False}, "metadata": {"name": "Digits"}},
        [
            "spec.frob: unknown field",
            "spec.suspend: must be true or false, not a text",
            f"metadata.name: {NAME}",
            f"spec.elasticity.preload: {PRELOAD}",
            f"{AT}.image: write the image of the container",
        ],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "problems"), CASES, ids=str)
def test_problems(changes: dict[str, Any], problems: list[str]) -> None:
    assert [str(problem) for problem in check(job(changes))] == problems
