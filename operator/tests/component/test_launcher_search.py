"""The beginning of the launcher: it finds a Python, also in an image that has none in its PATH."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from torchrun_launcher import ARCHIVE, shims
from torchrun_operator.programs import zipapp

SHELLS = [shell for shell in ("dash", "bash") if shutil.which(shell)]
TOLD = "import os, sys; print(sys.executable, sys.argv[1:], os.environ.get('PYTHON_EXEC'))\n"


@pytest.fixture(params=SHELLS)
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A directory with an empty PATH, and a launcher that tells with which Python it runs."""
    search = zipapp("torchrun_launcher").partition(b"PK\x03\x04")[0].decode()
    assert search.startswith("#!/bin/sh\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/readlink").symlink_to(shutil.which("readlink") or "")
    program = tmp_path / "python"
    # A module in place of the archive: the shell must not read on there, nor Python before.
    program.write_text(f"#!{shutil.which(request.param)}\n{search.partition(chr(10))[2]}")
    told = tmp_path / "told.py"
    told.write_text(TOLD)
    program.write_text(program.read_text().replace('"$python" "$0"', f'"$python" "{told}"'))
    program.chmod(0o755)
    return tmp_path


def ran(image: Path, *arguments: str, python: str = "") -> subprocess.CompletedProcess[str]:
    """Run the launcher with a PATH that has a Python of that name, if any."""
    if python:
        (image / "bin" / python).symlink_to(sys.executable)
    environment = {"PATH": str(image / "bin"), "PYTHON_EXEC": "launcher"}
    return subprocess.run(
        [str(image / "python"), *arguments], env=environment, capture_output=True, text=True, check=False
    )


def torchrun(image: Path, first_line: str) -> str:
    """Write a torchrun that is not in PATH."""
    program = image / "opt/torchrun"
    program.parent.mkdir()
    program.write_text(f"{first_line}\nimport sys\nprint('cold', sys.argv[1:])\n")
    program.chmod(0o755)
    return str(program)


def test_the_python_in_path_is_the_usual_one(image: Path) -> None:
    found = ran(image, "-u", "train.py", "a b", python="python3")
    assert found.stdout == f"{image}/bin/python3 ['-u', 'train.py', 'a b'] launcher\n"


@pytest.mark.parametrize("python", ["python3", ""])
def test_the_python_of_torchrun_comes_before_that_in_path(image: Path, python: str) -> None:
    program = torchrun(image, f"#!{sys.executable}")
    found = ran(image, "--first", program, "train.py", python=python)
    assert found.stdout == f"{sys.executable} ['--first', '{program}', 'train.py'] launcher\n"


def test_a_command_that_is_a_python_is_used(image: Path) -> None:
    found = ran(image, "--first", sys.executable, "-m", "torch.distributed.run")
    assert found.stdout == f"{sys.executable} ['--first', '{sys.executable}', '-m', 'torch.distributed.run'] launcher\n"


def test_a_worker_starts_with_the_python_of_its_agent(image: Path) -> None:
    found = ran(image, "-u", "train.py")
    assert found.stdout == f"{os.path.realpath(sys.executable)} ['-u', 'train.py'] launcher\n"


def test_without_any_python_the_command_runs_as_it_is(image: Path) -> None:
    program = image / "opt"
    program.write_text('#!/bin/sh\necho "$@" "$PYTHON_EXEC"\n')
    program.chmod(0o755)
    (image / "bin/readlink").unlink()
    found = ran(image, "--first", str(program), "a", "b c")
    assert (found.returncode, found.stdout) == (0, "a b c \n")
    assert found.stderr == "torchrun-operator: this node starts cold: there is no python3 in PATH\n"


@pytest.mark.parametrize(("arguments", "code"), [(["--start", "torchrun"], 0), (["-u", "train.py"], 127)])
def test_without_any_python_a_hook_succeeds_and_a_worker_fails(image: Path, arguments: list[str], code: int) -> None:
    (image / "bin/readlink").unlink()
    assert ran(image, *arguments).returncode == code


@pytest.mark.torch
@pytest.mark.parametrize("old", [False, True], ids=["torch 2.8", "torch before 2.8"])
@pytest.mark.parametrize(
    ("program", "started"), [(ARCHIVE, (sys.executable, ARCHIVE, "-u", "a.py")), ("other", ("other", "-u", "a.py"))]
)
def test_an_agent_of_the_launcher_starts_workers_with_its_own_python(
    monkeypatch: pytest.MonkeyPatch, old: bool, program: str, started: tuple[str, ...]
) -> None:
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    opened: list[dict[str, object]] = []
    pretended = SimpleNamespace(Popen=lambda **options: opened.append(options))
    if old:
        monkeypatch.delattr(subprocess_handler, "Popen")
        monkeypatch.setattr(subprocess_handler, "subprocess", pretended, raising=False)
    else:
        monkeypatch.setattr(subprocess_handler, "Popen", pretended.Popen)
    shims.install()
    popen = subprocess_handler.subprocess.Popen if old else subprocess_handler.Popen  # type: ignore[attr-defined]
    popen(args=(program, "-u", "a.py"), env={})
    assert opened == [{"args": started, "env": {}}]
