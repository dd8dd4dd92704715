"""How the rendezvous host finds the Python that torchrun runs with, in images of all kinds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rendezvous_host import host_program
from torchrun_rendezvous import interpreter


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        pytest.param("#!/opt/venv/bin/python3.12\nimport torch\n", "/opt/venv/bin/python3.12", id="plain"),
        pytest.param("#! /opt/venv/bin/python -u\n", "/opt/venv/bin/python", id="with an option"),
        pytest.param("#!/usr/bin/env python-on-path\n", "PATH/python-on-path", id="env"),
        pytest.param("#!/usr/bin/env -S python-on-path -u\n", "PATH/python-on-path", id="env with options"),
        pytest.param("#!/usr/bin/env python-nowhere\n", None, id="env, and not there"),
        pytest.param(
            "#!/bin/sh\n'''exec' \"/a/very/long/path/bin/python\" \"$0\" \"$@\"\n' '''\n",
            "/a/very/long/path/bin/python",
            id="too long for a first line",
        ),
        pytest.param("#!/bin/sh\nexec pyenv exec torchrun\n", None, id="a shell script"),
        pytest.param("#!/usr/bin/env bash\n", None, id="a bash script"),
        pytest.param("\x7fELF\x02", None, id="a program"),
        pytest.param("#!\n", None, id="nothing"),
        pytest.param("", None, id="empty"),
    ],
)
def test_the_python_of_a_script(
    script: str, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable(tmp_path / "python-on-path", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    written = tmp_path / "torchrun"
    written.write_text(script)
    found = interpreter.interpreter_of(str(written))
    assert found == (expected.replace("PATH", str(tmp_path)) if expected else None)


def test_a_script_that_cannot_be_read_names_none(tmp_path: Path) -> None:
    assert interpreter.interpreter_of(str(tmp_path / "missing")) is None


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def python(path: Path, *, torch: bool = True, version: str = "sys.version_info") -> Path:
    """Make an interpreter: this one, with or without a module torch, which says so instead of starting the host."""
    libraries = path.parent.parent / f"lib-{path.name}"
    libraries.mkdir(parents=True, exist_ok=True)
    if torch:
        (libraries / "torch").mkdir(exist_ok=True)
        (libraries / "torch" / "__init__.py").write_text("")
    (libraries / "sitecustomize.py").write_text(f"import sys\nsys.version_info = {version}\n")
    return executable(
        path,
        f'#!/bin/sh\n[ "$1" = -c ] || [ -n "$STARTED" ] || {{ echo runs in $0; exit 0; }}\n'
        f'PYTHONPATH={libraries} exec {sys.executable} -S -c "import sitecustomize\n$2"\n',
    )


def run(tmp_path: Path, *arguments: str, path: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program with this Python, whose own torch is hidden, as the first process of the pod."""
    script = (
        "import sys; sys.argv = ['rendezvous.pyz', *sys.argv[1:]]; sys.executable = sys.argv.pop(1)\n"
        "from torchrun_rendezvous.interpreter import settle\nsettle(sys.argv[1:])\nprint('runs in', sys.executable)"
    )
    first = str(tmp_path / "usr" / "python3")
    return subprocess.run(
        [sys.executable, "-S", "-c", script, first, *arguments],
        env={"PATH": path, "RDZV_IMAGE": "train:1", "PYTHONPATH": str(host_sources()), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def host_sources() -> Path:
    return Path(interpreter.__file__).parents[1]


def test_the_python_of_torchrun_comes_before_the_one_that_path_names(tmp_path: Path) -> None:
    python(tmp_path / "usr" / "python3")
    found = python(tmp_path / "venv" / "bin" / "python3.11")
    executable(tmp_path / "venv" / "bin" / "torchrun", f"#!{found}\n")
    done = run(tmp_path, "--search", path=str(tmp_path / "venv" / "bin"))
    assert (done.stdout, done.returncode) == (f"runs in {found}\n", 0), done.stderr


def test_the_environment_that_the_command_names_comes_first(tmp_path: Path) -> None:
    python(tmp_path / "usr" / "python3")
    other, named = python(tmp_path / "a" / "bin" / "python3"), python(tmp_path / "b" / "bin" / "python3")
    executable(tmp_path / "a" / "bin" / "torchrun", f"#!{other}\n")
    executable(tmp_path / "b" / "bin" / "torchrun", f"#!{named}\n")
    done = run(tmp_path, "--search", str(tmp_path / "c" / "bin"), str(named.parent), path=str(other.parent))
    assert done.stdout == f"runs in {named}\n", done.stderr


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_an_environment_that_is_active_is_found(variable: str, tmp_path: Path) -> None:
    python(tmp_path / "usr" / "python3", torch=False)
    found = python(tmp_path / "env" / "bin" / "python3")
    done = run(tmp_path, "--search", **{variable: str(tmp_path / "env")})
    assert done.stdout == f"runs in {found}\n", done.stderr


def test_a_python_without_torch_is_passed_over(tmp_path: Path) -> None:
    first = python(tmp_path / "usr" / "python3")
    without = python(tmp_path / "venv" / "bin" / "python3", torch=False)
    executable(tmp_path / "venv" / "bin" / "torchrun", f"#!{without}\n")
    done = run(tmp_path, "--search", path=str(without.parent))
    assert done.stdout == f"runs in {first}\n", done.stderr


def test_a_python_that_a_person_has_chosen_is_the_only_one(tmp_path: Path) -> None:
    first = python(tmp_path / "usr" / "python3", torch=False)
    found = python(tmp_path / "venv" / "bin" / "python3")
    executable(tmp_path / "venv" / "bin" / "torchrun", f"#!{found}\n")
    done = run(tmp_path, path=str(found.parent))
    assert done.returncode == 1
    assert done.stderr.endswith(f"Tried: {first}: No module named torch\n")


def test_without_torch_the_message_says_where_it_looked_and_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = python(tmp_path / "usr" / "python3", torch=False)
    old = python(tmp_path / "venv" / "bin" / "python3", version="(3, 8, 1)")
    broken = executable(tmp_path / "broken" / "bin" / "python3", "no program")
    log = tmp_path / "termination-log"
    log.write_text("")
    monkeypatch.setattr(interpreter, "TERMINATION_LOG", log)
    monkeypatch.setattr(interpreter, "PLACES", ())
    monkeypatch.setattr(sys, "executable", str(first))
    monkeypatch.setenv("RDZV_IMAGE", "train:1")
    monkeypatch.setenv("PATH", "")
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as caught:
        interpreter.settle(["--search", str(old.parent), str(broken.parent)])
    assert caught.value.code == log.read_text()
    assert caught.value.code == (
        "No module named torch in python3 of train:1. Set spec.rendezvous.template.spec.containers to "
        "[{name: rendezvous, command: [PYTHON]}], where PYTHON is the Python that has torch, or name another image "
        f"there. Tried: {old}: Python 3.8; 3.10 or newer is needed; "
        f"{broken}: [Errno 8] Exec format error: '{broken}'; {first}: No module named torch"
    )


def test_the_program_itself_ends_with_the_message(tmp_path: Path) -> None:
    """As in the image of a script without torch. It needs nothing but the standard library for that."""
    program, bare = host_program(tmp_path), tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    environment = {"PATH": os.fspath(bare / "bin"), "RDZV_IMAGE": "train:1"}
    done = subprocess.run(
        [bare / "bin" / "python3", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("No module named torch in python3 of train:1. Set spec.rendezvous.template.")
