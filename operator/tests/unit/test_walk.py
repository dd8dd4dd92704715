"""The page about one pass matches the code, and a step that enters a module twice is an error."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from torchrun_operator.core import decide as decision
from torchrun_operator.core.findings import find

sys.path.insert(0, str(Path(__file__).parents[2] / "codegen"))
from walk import entries, walk


def test_a_decision_goes_from_facts_to_events() -> None:
    assert [each.module for each in entries(decision, "decide")] == [
        "findings.find",
        "policies.chain",
        "status.report",
        "events",
    ]


def test_the_page_has_a_row_for_every_policy() -> None:
    assert walk().count("| `policies.") == 10


@pytest.fixture
def twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return a module with a function that enters another module of core twice."""
    source = (
        "from torchrun_operator.core.findings.size import absences, patience_ends\n\n\n"
        "def look(facts):\n    return absences(facts), patience_ends(facts, 3)\n"
    )
    (tmp_path / "looks_twice.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    return importlib.import_module("looks_twice")


def test_a_module_that_is_entered_twice_is_an_error(twice: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"looks_twice enters findings\.size more than once"):
        entries(twice, "look")


def test_a_module_is_known_by_the_first_line_of_its_docstring() -> None:
    first = entries(find, "find")[0]
    assert (first.module, first.function, first.about) == (
        "findings.wanted",
        "wanted",
        "The number of nodes that the job should have now.",
    )
