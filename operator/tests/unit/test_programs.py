"""A program has the same archive every time, and runs from one file."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from torchrun_operator.programs import zipapp


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of an importable package that says hello."""
    directory = tmp_path / "packed_hello"
    (directory / "inner").mkdir(parents=True)
    (directory / "__pycache__").mkdir()
    (directory / "__pycache__" / "left.py").write_text("")
    (directory / "notes.txt").write_text("not a source")
    (directory / "__init__.py").write_text("")
    (directory / "inner" / "__init__.py").write_text("WORD = 'hello'\n")
    main = "import sys\nfrom packed_hello.inner import WORD\n\nprint(WORD, *sys.argv[1:])\n"
    (directory / "__main__.py").write_text(main)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "packed_hello"


def test_the_same_source_gives_the_same_bytes(package: str, tmp_path: Path) -> None:
    first = zipapp(package)
    (tmp_path / package / "__init__.py").touch()
    assert zipapp(package) == first


def test_only_sources_are_packed(package: str) -> None:
    names = zipfile.ZipFile(io.BytesIO(zipapp(package))).namelist()
    assert names == [
        "__main__.py",
        f"{package}/__init__.py",
        f"{package}/__main__.py",
        f"{package}/inner/__init__.py",
    ]


@pytest.mark.parametrize("start", [[sys.executable], []], ids=["by Python", "by itself"])
def test_the_archive_runs(package: str, tmp_path: Path, start: list[str]) -> None:
    program = tmp_path / "hello"
    program.write_bytes(zipapp(package))
    program.chmod(0o755)
    ran = subprocess.run([*start, str(program), "world"], cwd="/", capture_output=True, text=True, check=True)
    assert ran.stdout == "hello world\n"


def test_a_package_that_does_not_exist() -> None:
    with pytest.raises(ModuleNotFoundError, match="packed_nothing"):
        zipapp("packed_nothing")
