"""render, validate and samples, as functions and as a process."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from torchrun_cli.app import PROGRAM, app

MANIFEST = """\
default-values: {name: digits, max_nodes: 4, tags: [], image: null}
apiVersion: torchrun.dev/v1alpha1
kind: TorchrunJob
metadata: {name: {{ name }}}
spec:
  nnodes: "2:{{ max_nodes }}"
  files:
  - path: /workspace/train.py
    localPath: train.py
  template:
    spec:
      containers:
      - name: trainer
        image: {{ image or "train:1" }}
        command: [torchrun, /workspace/train.py]
        args: {{ tags }}
"""
THREE = """\
job.yaml has 3 problems:
job.yaml:4: metadata.generateName: {name}
job.yaml:6: spec.nnodes: MIN is greater than MAX; write "1:2"
job.yaml:16: spec.template.spec.containers[0].args[0]: must be a text; write it in quotes: "1\"\
"""


def run(*args: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, args, prog_name=PROGRAM, input=stdin)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(MANIFEST)
    (tmp_path / "train.py").write_text("print(1)\n")
    (tmp_path / "values.yaml").write_text("max_nodes: 5\nname: filed\n")
    return tmp_path


def expected(name: str = "digits", nnodes: str = "2:4", image: str = "train:1", args: Any = ()) -> dict[str, Any]:
    container = {"name": "trainer", "image": image, "command": ["torchrun", "/workspace/train.py"], "args": list(args)}
    return {
        "apiVersion": "torchrun.dev/v1alpha1",
        "kind": "TorchrunJob",
        "metadata": {"name": name},
        "spec": {
            "nnodes": nnodes,
            "files": [{"path": "/workspace/train.py", "content": "print(1)\n"}],
            "template": {"spec": {"containers": [container]}},
        },
    }


@pytest.mark.parametrize(
    ("args", "job"),
    [
        (["job.yaml"], expected()),
        (["job.yaml", "-o", "json"], expected()),
        (["job.yaml", "--set", "max_nodes=8", "name=big"], expected("big", "2:8")),
        (["--set", "max_nodes=8", "name=big", "job.yaml"], expected("big", "2:8")),
        (["--set", "max_nodes=8", "--set=name=big", "job.yaml"], expected("big", "2:8")),
        (["job.yaml", "--set", "max_nodes=8", "--name", "mine"], expected("mine", "2:8")),
        (["job.yaml", "--set-string", "name=a1", "max_nodes=6"], expected("a1", "2:6")),
        (["job.yaml", "--set", "max_nodes=6", "--values", "values.yaml"], expected("filed", "2:6")),
        (["job.yaml", "--values=values.yaml"], expected("filed", "2:5")),
        (["job.yaml", "--set", "tags=[a, 2, null]", "image=x:2"], expected(image="x:2", args=["a", 2, None])),
        (["job.yaml", "--set", "max_nodes=6", "max_nodes=7"], expected(nnodes="2:7")),
        (["-", "--local-dir", "."], expected()),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("place")
def test_render(args: list[str], job: dict[str, Any]) -> None:
    result = run("render", *args, stdin=MANIFEST)
    assert (result.exit_code, result.stderr) == (0, "")
    assert yaml.safe_load(result.stdout) == job


@pytest.mark.parametrize(
    ("args", "code", "error"),
    [
        (["render"], 2, "Missing argument 'FILE'.\nSee 'kubectl torchrun render --help' for usage."),
        (["render", "job.yaml", "--set"], 2, "--set : write NAME=VALUE"),
        (["render", "job.yaml", "more"], 2,
         "Got unexpected extra argument (more)\nSee 'kubectl torchrun render --help' for usage."),
        (["render", "jab.yaml"], 2, "jab.yaml does not exist; did you mean 'job.yaml'?"),
        (["render", "job.yaml", "--set", "max_node=3"], 2,
         "--set max_node=3: the manifest has no value 'max_node'; did you mean 'max_nodes'?"),
        (["render", "job.yaml", "--values", "value.yaml"], 2, "value.yaml does not exist; did you mean 'values.yaml'?"),
        (["render", "job.yaml", "--name", "a", "--generate-name", "b-"], 2,
         "write either --name or --generate-name, not both\nSee 'kubectl torchrun render --help' for usage."),
        (["render", "-"], 2, "stdin:9: spec.files[0].localPath: name the directory of train.py with --local-dir"),
        (["render", "sample:elastic-torchrn"], 3,
         "there is no sample 'elastic-torchrn'; did you mean 'elastic-torchrun'?"),
        (["samples", "show", "zzz"], 3, "there is no sample 'zzz'; 'kubectl torchrun samples list' lists them"),
        (["samples", "show", "plain-ddp", "--file", "x"], 3,
         "plain-ddp has no file 'x'; it has manifest.yaml, README.md, train.py"),
        (["validate", "job.yaml", "--set", "max_nodes=1"], 2,
         'job.yaml:6: spec.nnodes: MIN is greater than MAX; write "1:2"'),
        (["validate", "job.yaml", "--set", "max_nodes=1", "--set", "tags=[1]", "--generate-name", "A"], 2,
         THREE),
        (["validate", "job.yaml", "--set", "name=" + "a" * 55], 2, "job.yaml:4: metadata.name: {name}"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)  # fmt: skip
@pytest.mark.usefixtures("place")
def test_errors(args: list[str], code: int, error: str) -> None:
    name = (
        "pods and services use this name: write at most 54 lowercase letters, digits and '-', starting with a letter "
        "and ending with a letter or digit"
    )
    result = run(*args, stdin=MANIFEST)
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", f"error: {error.replace('{name}', name)}\n")


@pytest.mark.usefixtures("place")
def test_valid_manifests() -> None:
    assert run("validate", "job.yaml").output == "torchrunjob.torchrun.dev/digits is valid\n"
    assert run("validate", "job.yaml", "--generate-name", "a-").output == "torchrunjob.torchrun.dev/a-* is valid\n"


def test_a_note_is_no_error(place: Path) -> None:
    (place / "train.py").write_bytes(b"print(1)\r\n")
    result = run("render", "job.yaml")
    assert (result.exit_code, yaml.safe_load(result.stdout)) == (0, expected())
    assert result.stderr == "note: train.py: line ends of Windows become those of Linux\n"


def test_as_a_process_whose_reader_leaves(place: Path) -> None:
    program = Path(sys.executable).with_name("kubectl-torchrun")
    env = {**os.environ, "NO_COLOR": "1"}
    (place / "train.py").write_text("x = 1\n" * 50_000)
    command = f"{program} render job.yaml | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=env, check=False)
    assert (done.stdout, done.stderr) == ("apiVersion: torchrun.dev/v1alpha1\n", "")
