"""The tables of jobs in trouble: how a status is compared with what it must say."""

from pathlib import Path
from typing import Any

import pytest

from support.clusters import ROOT
from support.faultcases import differences, hints, job_of, pauses_grow, read, readable, rises

_FAULTS = Path(__file__).parent / "faults"
_NAMES = {"TRAINER": "trainer:1", "OPERATOR": "operator:1", "MACHINE": "node2"}


@pytest.mark.parametrize(
    ("pattern", "seen", "found"),
    [
        ({}, {"state": "Failed"}, []),
        ({"state": "Failed"}, {"state": "Failed", "message": "x"}, []),
        ({"state": "Failed"}, {"state": "Running"}, ["state: 'Running' is not 'Failed'"]),
        ({"state": "Failed"}, None, ["state: None is not 'Failed'"]),
        ({"a": {"b": "~c+$"}}, {"a": {"b": "bcc"}}, []),
        ({"a": {"b": "~^c"}}, {"a": {"b": "bc"}}, ["a.b: 'bc' is not '~^c'"]),
        ({"a": "~None"}, {}, ["a: None is not '~None'"]),
        ({"a": ["~x", "~y", "~z"]}, {"a": "xz"}, ["a: 'xz' is not '~y'"]),
        ({"n": "2..4"}, {"n": 4}, []),
        ({"n": "2..4"}, {"n": 5}, ["n: 5 is not '2..4'"]),
        ({"n": "1.."}, {}, ["n: None is not '1..'"]),
        ({"n": "..4"}, {}, []),
        ({"n": 1}, {"n": 1}, []),
        ({"n": 0}, {}, ["n: None is not 0"]),
        ({"n": None}, {}, []),
        (None, {"kind": "Pod"}, [": {'kind': 'Pod'} is not None"]),
        (None, None, []),
    ],
)
def test_differences(pattern: Any, seen: Any, found: list[str]) -> None:
    assert differences(pattern, seen) == found


def test_conditions_are_found_by_their_type() -> None:
    failed = {"type": "Failed", "status": "True"}
    assert readable({"state": "Failed", "conditions": [failed]}) == {
        "state": "Failed",
        "conditions": {"Failed": failed},
    }
    assert readable({}) == {"conditions": {}}


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        ([], []),
        (["nothing to run"], []),
        (["it failed; see kubectl logs job-0"], ["kubectl logs job-0"]),
        (["see kubectl logs job-0 -c fetch-data.", "kubectl -n team describe pod job-0, and wait"],
         ["kubectl logs job-0 -c fetch-data", "kubectl -n team describe pod job-0"]),
        (["kubectl logs a-0 --previous; then", "see kubectl logs a-0 --previous"], ["kubectl logs a-0 --previous"]),
        (["run kubectl delete pod job-0"], []),
    ],
)  # fmt: skip
def test_hints(messages: list[str], found: list[str]) -> None:
    assert hints({"conditions": [{"message": message} for message in messages]}) == found


def counted(*values: int) -> list[tuple[float, dict[str, Any]]]:
    return [(float(at), {"restarts": {"code": value}}) for at, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "found", "grow"),
    [
        ((), [], False),
        ((0, 0), [], False),
        ((0, 1, 1, 2), [(1.0, 1), (3.0, 2)], False),
        ((1, 2, 2, 3), [(0.0, 1), (1.0, 2), (3.0, 3)], True),
        ((1, 2, 3), [(0.0, 1), (1.0, 2), (2.0, 3)], False),
        ((1, 1, 2, 3), [(0.0, 1), (2.0, 2), (3.0, 3)], False),
        ((1, 1, 2, 3, 3, 3, 4), [(0.0, 1), (2.0, 2), (3.0, 3), (6.0, 4)], True),
        ((2, 1, 2, 3), [(0.0, 2), (3.0, 3)], False),
    ],
)
def test_rises(values: tuple[int, ...], found: list[tuple[float, int]], grow: bool) -> None:
    reached = rises([(0.0, {}), *counted(*values)], "restarts.code")
    assert reached == found
    assert pauses_grow(reached) is grow


_KEYS = {"see", "within", "since", "refused", "apply", "patch", "delete", "objects", "logs", "grows", "times"}


def test_the_tables_are_whole() -> None:
    cases = [case for path in sorted(_FAULTS.glob("*.yaml")) for case in read(path, _NAMES)]
    names = [case.name for case in cases]
    assert sorted(names) == sorted(set(names))
    for case in cases:
        assert case.what, case.name
        assert job_of(case, "trainer:1")["spec"]["template"]["spec"]["containers"], case.name
        for step in case.steps:
            assert set(step) <= _KEYS, case.name
            assert {"see", "refused", "objects", "logs", "grows"} & set(step), case.name


def test_the_documentation_lists_every_first_mistake() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    assert [case.what for case in read(_FAULTS / "mistakes.yaml", _NAMES) if f"| {case.what} |" not in text] == []
