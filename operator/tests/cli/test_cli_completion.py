"""Completion, as kubectl and as shells ask for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchrun_cli.app import COMMANDS, COMPLETE
from torchrun_cli.completion import complete

PROGRAM = str(Path(sys.executable).with_name("kubectl-torchrun"))


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["sub"], [f"submit\t{COMMANDS['submit'].help}", ":4"]),
        (["samples", "sh"], ["show\tPrint what a sample shows, its values, and...", ":4"]),
        (
            ["submit", "sample:elastic-"],
            ["sample:elastic-torchrun\telastic training that survives the loss of any node", ":4"],
        ),
        (["validate", "--set-"], ["--set-string\tAs --set, but the value is always a text.", ":4"]),
        (["list", "-o", ""], ["json", "yaml", "name", ":4"]),
        (["validate", ""], [":0"]),
        (["validate", "job.y"], [":0"]),
    ],
    ids=" ".join,
)
def test_kubectl(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], lines: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kubectl_complete-torchrun", *words])
    complete()
    assert capsys.readouterr().out.splitlines() == lines


def test_a_shell_completes_the_program_not_kubectl() -> None:
    env = {"PATH": os.environ["PATH"], COMPLETE: "bash_source"}
    script = subprocess.run([PROGRAM], env=env, capture_output=True, text=True, check=True).stdout
    assert "complete -o nosort -F _kubectl_torchrun_completion kubectl-torchrun\n" in script
