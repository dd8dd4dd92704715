"""The layout check: what breaks a limit is named, whatever form it takes, and what does not is left alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.clusters import ROOT
from support.layout import Measured, measure

A, B, C = (f"operator/src/pack/{name}.py" for name in "abc")
SUB, SUB_X = "operator/src/pack/sub/__init__.py", "operator/src/pack/sub/x.py"
CYCLE = [f"import cycle: {A} -> {B} -> {A}"]
FUNCTION = "def long():\n" + '    """Do."""\n' + "    x = 1\n" * 58
"""60 lines."""


def written(root: Path, files: dict[str, str]) -> Path:
    """Write a repository whose packages `pack` and `pack.sub` are importable."""
    for package in ("operator/src/pack", "operator/src/pack/sub", "trainer/src/other"):
        files = {f"{package}/__init__.py": "", **files}
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "offenders"),
    [
        pytest.param({A: "x = 1\n" * 400}, [], id="a file at the limit"),
        pytest.param(
            {A: "x = 1\n" * 401, B: "x = 1\n" * 500},
            [
                f"file is too long: 500 of at most 400 lines, {B}",
                f"file is too long: 401 of at most 400 lines, {A}",
            ],
            id="files above the limit, the longest first",
        ),
        pytest.param(
            {"trainer/tests/deep/test_x.py": "x = 1\n" * 401},
            ["file is too long: 401 of at most 400 lines, trainer/tests/deep/test_x.py"],
            id="a test file",
        ),
        pytest.param(
            {"charts/chart/templates/x.yaml": "x: 1\n" * 401},
            ["file is too long: 401 of at most 400 lines, charts/chart/templates/x.yaml"],
            id="a template",
        ),
        pytest.param(
            {"operator/tests/a/test_x.py": "", "operator/tests/b/test_x.py": "", "trainer/tests/helper.py": "", A: ""},
            ["rename it, another test module has this name: operator/tests/b/test_x.py"],
            id="two test modules of one name",
        ),
        pytest.param({A: "# Generated from b; do not edit.\n" + "x = 1\n" * 500}, [], id="a generated file"),
        pytest.param({"operator/tests/golden/x.yaml": "x: 1\n" * 401}, [], id="a fixture"),
        pytest.param({"operator/.venv/x.py": "x = 1\n" * 401}, [], id="a hidden folder"),
        pytest.param({"operator/src/torchrun_rendezvous/a.py": "x = 1\n" * 250}, [], id="a rendezvous module"),
        pytest.param(
            {"operator/src/torchrun_rendezvous/a.py": "x = 1\n" * 251},
            ["file is too long: 251 of at most 250 lines, operator/src/torchrun_rendezvous/a.py"],
            id="a rendezvous module above its limit",
        ),
        pytest.param({A: FUNCTION}, [], id="a function at the limit"),
        pytest.param(
            {A: FUNCTION + "    x = 1\n"},
            [f"function is too long: 61 of at most 60 lines, {A}:1 long"],
            id="a function above the limit",
        ),
        pytest.param(
            {A: "# Comment.\n@d\n" + FUNCTION},
            [f"function is too long: 61 of at most 60 lines, {A}:2 long"],
            id="a decorator",
        ),
        pytest.param(
            {A: "class X:\n" + "".join(f"    {line}\n" for line in f"async {FUNCTION}    x = 1\n".splitlines())},
            [f"function is too long: 61 of at most 60 lines, {A}:2 long"],
            id="an asynchronous method",
        ),
    ],
)
def test_lengths(files: dict[str, str], offenders: list[str], tmp_path: Path) -> None:
    assert measure(written(tmp_path, files)).offenders() == offenders


@pytest.mark.parametrize(
    ("files", "cycles"),
    [
        pytest.param({A: "import pack.b", B: "import json"}, [], id="one way"),
        pytest.param({A: "from pack.b import f", B: "", C: "import pack.a, pack.b"}, [], id="a diamond"),
        pytest.param({A: "import pack.b", B: "import pack.a"}, CYCLE, id="import"),
        pytest.param({A: "import pack.b as x", B: "from pack.a import f as y"}, CYCLE, id="with other names"),
        pytest.param({A: "from pack import b", B: "from pack import a"}, CYCLE, id="from the package"),
        pytest.param({A: "from . import b", B: "from .a import f"}, CYCLE, id="relative"),
        pytest.param({A: "def f():\n    import pack.b", B: "import pack.a"}, CYCLE, id="in a function"),
        pytest.param(
            {A: "if TYPE_CHECKING:\n    from pack.b import B", B: "from pack.a import A"}, CYCLE, id="for types only"
        ),
        pytest.param({A: "try:\n    import pack.b\nexcept E:\n    pass", B: "import pack.a"}, CYCLE, id="optional"),
        pytest.param({A: "import pack.a"}, [f"import cycle: {A} -> {A}"], id="itself"),
        pytest.param(
            {A: "import pack.b", B: "import pack.c", C: "import pack.a"},
            [f"import cycle: {A} -> {B} -> {C} -> {A}"],
            id="of three",
        ),
        pytest.param(
            {A: "import pack.b", B: "import pack.a", "trainer/src/other/x.py": "from other.x import y"},
            [*CYCLE, "import cycle: trainer/src/other/x.py -> trainer/src/other/x.py"],
            id="two cycles",
        ),
        pytest.param(
            {"operator/src/pack/__init__.py": "from pack.a import A", A: "from pack import B"},
            ["import cycle: operator/src/pack/__init__.py -> operator/src/pack/a.py -> operator/src/pack/__init__.py"],
            id="through the package",
        ),
        pytest.param(
            {SUB: "from . import x", SUB_X: "from .. import sub"},
            [f"import cycle: {SUB} -> {SUB_X} -> {SUB}"],
            id="relative to the package above",
        ),
        pytest.param(
            {A: "from other import x", "trainer/src/other/x.py": "import pack.a"},
            [f"import cycle: {A} -> trainer/src/other/x.py -> {A}"],
            id="between two trees",
        ),
        pytest.param(
            {"operator/tests/kit/x.py": "import y", "operator/tests/kit/y.py": "import x"},
            ["import cycle: operator/tests/kit/x.py -> operator/tests/kit/y.py -> operator/tests/kit/x.py"],
            id="of scripts in one folder",
        ),
        pytest.param(
            {"e2e/one/x.py": "import y", "e2e/one/y.py": "", "e2e/two/x.py": "", "e2e/two/y.py": "import x"},
            [],
            id="scripts of the same name in two folders",
        ),
    ],
)
def test_cycles(files: dict[str, str], cycles: list[str], tmp_path: Path) -> None:
    found = measure(written(tmp_path, files)).offenders()
    assert [_turned(each) for each in found] == [_turned(each) for each in cycles]


def _turned(cycle: str) -> list[str]:
    """Return the files of a cycle, from the first by name: where the search enters it does not matter."""
    files = cycle.removeprefix("import cycle: ").split(" -> ")[1:]
    start = files.index(min(files))
    return files[start:] + files[:start]


def _check(root: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "support.layout", str(root)]
    return subprocess.run(command, cwd=ROOT / "e2e", capture_output=True, text=True, check=False)


def test_the_command_prints_three_figures_and_fails_on_an_offender(tmp_path: Path) -> None:
    written(tmp_path, {A: "import pack.b\n" + "x = 1\n" * 399, B: FUNCTION})
    figures = [
        f"longest file: 400 of at most 400 lines, {A}",
        f"longest function: 60 of at most 60 lines, {B}:1 long",
        "import cycles: 0",
    ]
    done = _check(tmp_path)
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, figures, "")
    written(tmp_path, {B: "import pack.a"})
    done = _check(tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "import cycles: 1")
    assert done.stderr.startswith("import cycle: operator/src/pack/")


def test_a_tree_without_sources_is_an_error(tmp_path: Path) -> None:
    done = _check(tmp_path)
    assert done.returncode == 2
    assert "has no sources" in done.stderr


def test_folders_with_a_lower_limit_have_a_figure(tmp_path: Path) -> None:
    written(tmp_path, {A: "x = 1\n", "operator/src/torchrun_rendezvous/a.py": "x = 1\n" * 9})
    assert measure(tmp_path).figures() == [
        f"longest file: 1 of at most 400 lines, {A}",
        "longest file: 9 of at most 250 lines, operator/src/torchrun_rendezvous/a.py",
        "longest function: 0 of at most 60 lines, none",
        "import cycles: 0",
    ]


def test_measured_sort_by_length() -> None:
    assert max(Measured(2, "a", 9), Measured(10, "b", 9)).where == "b"
