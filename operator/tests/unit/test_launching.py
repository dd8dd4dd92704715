"""Where the launcher comes before torchrun in a command."""

from typing import Any

import pytest

from torchrun_operator.api.launching import LAUNCHER, launched

FIRST = f"{LAUNCHER} --first"
TEXTS = {
    "torchrun a.py": f"{FIRST} torchrun a.py",
    "exec torchrun a.py": f"exec {FIRST} torchrun a.py",
    "cd /app && FOO=1 torchrun \\\n  a.py | tee log": f"cd /app && FOO=1 {FIRST} torchrun \\\n  a.py | tee log",
    "set -e\npip install x\ntorchrun a.py\necho done": f"set -e\npip install x\n{FIRST} torchrun a.py\necho done",
    "exec $VENV/bin/python3.12 -m torch.distributed.run a.py": (
        f"exec {FIRST} $VENV/bin/python3.12 -m torch.distributed.run a.py"
    ),
    "~/venv/bin/torchrun a.py; ls": f"{FIRST} ~/venv/bin/torchrun a.py; ls",
    "if test -d x; then torchrun a.py; fi": f"if test -d x; then {FIRST} torchrun a.py; fi",
    "(torchrun a.py)": f"({FIRST} torchrun a.py)",
    "torchrun a.py  # not exec torchrun b.py": f"{FIRST} torchrun a.py  # not exec torchrun b.py",
    "# run; torchrun b.py\ntorchrun a.py": f"# run; torchrun b.py\n{FIRST} torchrun a.py",
    # The launcher cannot come first, or nobody can say so.
    "echo '; torchrun a.py'": None,
    "echo torchrun a.py": None,
    "# run; torchrun b.py\nls": None,
    '# we do torchrun here\n"$VENV/bin/torchrun" a.py': None,
    "time torchrun a.py": None,
    "nsys profile torchrun a.py": None,
    "torchrun a.py; torchrun b.py": None,
    "torchrun": None,
    "mytorchrun a.py": None,
    "torchrun.sh a.py": None,
    "eval 'exec torchrun a.py'": None,
    "torchrun() { uv run torchrun $@; }\ntorchrun a.py": None,
    "function torchrun { uv run torchrun $@; }\ntorchrun a.py": None,
    "alias torchrun='python -m torchrun_of_ours'\ntorchrun a.py": None,
    "torchrun --no-python ./a.sh": None,
    "python -m torch.distributed.runner a.py": None,
    "./train.sh": None,
    "": None,
}


@pytest.mark.parametrize(("text", "changed"), TEXTS.items())
@pytest.mark.parametrize("shell", [["bash", "-c"], ["/bin/sh", "-ec"], ["bash", "-euo", "pipefail", "-c"]])
def test_shell_texts(shell: list[str], text: str, changed: str | None) -> None:
    given = [*shell, text, "name"]
    expected = None if changed is None else {"command": [*shell, changed, "name"]}
    assert launched({"command": given}) == expected
    assert given == [*shell, text, "name"]


@pytest.mark.parametrize(
    ("trainer", "fields"),
    [
        ({"command": ["torchrun", "a.py"]}, {"command": ["python3", LAUNCHER, "--first", "torchrun", "a.py"]}),
        ({"command": ["torchrun"], "args": ["a.py"]}, {"command": ["python3", LAUNCHER, "--first", "torchrun"]}),
        ({"command": ["bash"], "args": ["-c", "torchrun a.py"]},
         {"command": ["bash"], "args": ["-c", f"{FIRST} torchrun a.py"]}),
        ({"command": ["bash", "-c"], "args": ["torchrun a.py"]},
         {"command": ["bash", "-c"], "args": [f"{FIRST} torchrun a.py"]}),
        ({"args": ["torchrun", "a.py"]}, None),
        ({"command": ["torchrun", "--no_python", "./a.sh"]}, None),
        ({"args": ["bash", "-c", "torchrun a.py"]}, None),
        ({"command": ["bash", "train.sh", "-c", "torchrun a.py"]}, None),
        ({"command": ["bash", "-c"]}, None),
        ({"command": ["python", "-c", "torchrun a.py"]}, None),
        ({"command": ["env", "A=1", "torchrun", "a.py"]}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_commands(trainer: dict[str, Any], fields: dict[str, Any] | None) -> None:
    assert launched(trainer) == fields


@pytest.mark.parametrize(
    "program", [("/opt/venv/bin/torchrun",), ("/opt/venv/bin/python3", "-m", "torch.distributed.run")]
)
def test_the_launcher_may_have_to_look_for_a_python(program: tuple[str, ...]) -> None:
    assert launched({"command": [*program, "a.py"]}, search=True) == {
        "command": [LAUNCHER, "--first", *program, "a.py"]
    }
