"""`kubectl torchrun submit` as a process, against the real API server of the integration tests."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

PROGRAM = str(Path(sys.executable).with_name("kubectl-torchrun"))
JOBS = "/apis/torchrun.dev/v1alpha1/namespaces/default/torchrunjobs"
NAMED = "torchrunjob.torchrun.dev"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(torchrunjobs: Any, tmp_path: Path) -> Iterator[Run]:
    """Run the program in an empty directory, and return what came of it. No other jobs are there, nor later."""
    assert torchrunjobs.request("DELETE", JOBS)[0] == 200

    def run(*args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PROGRAM, *args],
            env={"PATH": os.environ["PATH"], "KUBECONFIG": str(torchrunjobs.kubeconfig)},
            cwd=tmp_path,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    yield run
    torchrunjobs.request("DELETE", JOBS)


def names(server: Any) -> list[str]:
    return sorted(item["metadata"]["name"] for item in server.request("GET", JOBS)[1]["items"])


def test_a_sample_with_other_numbers(cli: Run, torchrunjobs: Any) -> None:
    values = ["sample:elastic-torchrun", "--set", "max_nodes=3", "min_nodes=2", "n_gpus_per_node=1"]
    checked = cli("submit", *values, "--dry-run")
    assert (checked.stdout, checked.stderr) == (f"{NAMED}/elastic-torchrun created (server dry run)\n", "")
    assert names(torchrunjobs) == []
    created = cli("submit", *values)
    assert (created.stdout, created.stderr) == (f"{NAMED}/elastic-torchrun created\n", "")
    spec = torchrunjobs.request("GET", f"{JOBS}/elastic-torchrun")[1]["spec"]
    assert (spec["nnodes"], spec["replicas"], spec["nprocPerNode"]) == ("2:3", 3, 1)
    assert "GlobalBatches" in spec["files"][0]["content"]
    again = cli("submit", *values)
    assert (again.returncode, again.stdout) == (4, "")
    assert again.stderr.startswith("error: elastic-torchrun already exists in the namespace default; choose another")


def test_a_name_of_the_api_server(cli: Run, torchrunjobs: Any) -> None:
    made = [cli("submit", "sample:plain-ddp", "--generate-name", "try-", "-o", "name").stdout for _ in range(2)]
    assert sorted(made) == [f"{NAMED}/{name}\n" for name in names(torchrunjobs)]
    assert [len(name) for name in names(torchrunjobs)] == [len("try-12345")] * 2


def test_what_render_prints_is_what_submit_creates(cli: Run, torchrunjobs: Any) -> None:
    rendered = cli("render", "sample:elastic-torchrun", "--name", "mine").stdout
    assert cli("submit", "-", stdin=rendered).stdout == f"{NAMED}/mine created\n"
    job = torchrunjobs.request("GET", f"{JOBS}/mine")[1]
    assert job["metadata"]["managedFields"][0]["manager"] == "kubectl-torchrun"
    assert json.loads(cli("render", "-", "-o", "json", stdin=rendered).stdout)["spec"].items() <= job["spec"].items()


@pytest.mark.parametrize("name", ["elastic-torchrun", "plain-ddp"])
def test_the_api_server_accepts_every_sample(cli: Run, name: str) -> None:
    for device in ("cpu", "gpu"):
        done = cli("submit", f"sample:{name}", "--set", f"device={device}", "--dry-run", "-o", "name")
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{NAMED}/{name}\n", "")


def test_a_wrong_job_leaves_nothing(cli: Run, torchrunjobs: Any) -> None:
    done = cli("submit", "sample:plain-ddp", "--set", "max_nodes=1")
    assert (done.returncode, done.stdout) == (2, "")
    assert 'spec.nnodes: MIN is greater than MAX; write "1:2"' in done.stderr
    assert names(torchrunjobs) == []
