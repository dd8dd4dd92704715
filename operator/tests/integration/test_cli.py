"""`kubectl torchrun` as a process, against the real API server of the integration tests."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli_jobs import JOB

pytestmark = pytest.mark.integration

PROGRAM = str(Path(sys.executable).with_name("kubectl-torchrun"))
JOBS = "/apis/torchrun.dev/v1alpha1/namespaces/default/torchrunjobs"
SPEC = {
    "nnodes": "2:4",
    "template": {"spec": {"containers": [{"name": "trainer", "image": "training", "command": ["torchrun", "a.py"]}]}},
}
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(torchrunjobs: Any) -> Run:
    """Run the program, and return what came of it."""

    def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PROGRAM, *args],
            env={"PATH": os.environ["PATH"], "KUBECONFIG": str(torchrunjobs.kubeconfig), **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def job(torchrunjobs: Any) -> Iterator[Callable[..., str]]:
    """Create jobs with a status, as the operator writes it, and delete them after the test."""
    made: list[str] = []

    def make(name: str, **status: Any) -> str:
        body = {"apiVersion": "torchrun.dev/v1alpha1", "kind": "TorchrunJob", "metadata": {"name": name}}
        code, answer = torchrunjobs.request("POST", JOBS, body | {"spec": copy.deepcopy(SPEC)})
        assert code == 201, answer["message"]
        made.append(f"{JOBS}/{name}")
        if status:
            code, answer = torchrunjobs.request("PATCH", f"{made[-1]}/status", {"status": status})
            assert code == 200, answer["message"]
        return made[-1]

    yield make
    for path in made:
        torchrunjobs.request("DELETE", path)


def test_list_and_status(cli: Run, job: Callable[..., str]) -> None:
    assert cli("list").stderr == "No jobs found in namespace default.\n"
    job("digits", **JOB["status"])
    shown = cli("list", "-A")
    assert [line.split()[:5] for line in shown.stdout.splitlines()] == [
        ["NAMESPACE", "NAME", "STATE", "NODES", "WORKERS"],
        ["default", "digits", "Running", "3/2:4", "6"],
    ]
    assert cli("list", "-o", "name").stdout == "torchrunjob.torchrun.dev/digits\n"
    screen = cli("status", "digits")
    assert (screen.stdout.splitlines()[0], screen.returncode) == ("digits   Running", 0)
    assert "\x1b" not in screen.stdout
    assert json.loads(cli("status", "digits", "-o", "json").stdout)["status"]["state"] == "Running"


def test_events(cli: Run, job: Callable[..., str], torchrunjobs: Any) -> None:
    job("digits")
    for kind, name in (("TorchrunJob", "digits"), ("Pod", "digits-0"), ("Pod", "other-0")):
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": "e-"},
            "involvedObject": {"kind": kind, "name": name, "namespace": "default"},
            "reason": f"Of{kind}",
            "type": "Normal",
            "message": "hello",
        }
        assert torchrunjobs.request("POST", "/api/v1/namespaces/default/events", event)[0] == 201
    rows = [line.split()[1:] for line in cli("events", "digits").stdout.splitlines()[1:]]
    assert rows == [
        ["Normal", "OfTorchrunJob", "torchrunjob/digits", "hello"],
        ["Normal", "OfPod", "pod/digits-0", "hello"],
    ]
    assert len(cli("events", "digits", "--job-only").stdout.splitlines()) == 2


ABSENT = 'error: torchrunjobs.torchrun.dev "none" not found\n'


@pytest.mark.parametrize(
    ("args", "code", "error"),
    [
        (["status", "none"], 3, ABSENT),
        (["events", "none"], 3, ABSENT),
        (["list", "--context", "none"], 2, "error: the kubeconfig has no context 'none'; there are: test\n"),
        (["list", "-l", "=="], 4, "error: found '==', expected: !, identifier, or 'end of string'\n"),
    ],
)
def test_errors(cli: Run, args: list[str], code: int, error: str) -> None:
    done = cli(*args)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", error)


def test_an_api_server_that_is_not_there(cli: Run, tmp_path: Path, torchrunjobs: Any) -> None:
    config = torchrunjobs.kubeconfig.read_text().replace(torchrunjobs.url, "https://127.0.0.1:1")
    (tmp_path / "config").write_text(config)
    done = cli("list", KUBECONFIG=str(tmp_path / "config"))
    words = "error: cannot reach the API server https://127.0.0.1:1: Connection refused\n"
    assert (done.returncode, done.stderr) == (1, words)
    (tmp_path / "config").write_text(torchrunjobs.kubeconfig.read_text().replace("certificate-authority", "none"))
    done = cli("list", KUBECONFIG=str(tmp_path / "config"))
    words = f"error: cannot reach the API server {torchrunjobs.url}: its certificate is not trusted: "
    assert (done.returncode, done.stderr[: len(words)]) == (1, words)
