"""`kubectl torchrun logs` as a process, against the real API server and a kubelet that the test plays."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli_kubelet import Kubelet, running_kubelet

pytestmark = pytest.mark.integration

PROGRAM = str(Path(sys.executable).with_name("kubectl-torchrun"))
JOBS = "/apis/torchrun.dev/v1alpha1/namespaces/default/torchrunjobs"
PODS = "/api/v1/namespaces/default/pods"
NODES = "/api/v1/nodes"
CONTAINER = {"name": "trainer", "image": "training", "command": ["torchrun", "a.py"]}
T = "2026-01-31T12:00:0"


@pytest.fixture
def machine(torchrunjobs: Any, tmp_path: Path) -> Iterator[Kubelet]:
    """Start a Kubernetes node."""
    with running_kubelet(tmp_path) as found:
        address = {"type": "InternalIP", "address": "127.0.0.1"}
        endpoints = {"kubeletEndpoint": {"Port": found.port}}
        send(torchrunjobs, "POST", NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})
        send(
            torchrunjobs,
            "PATCH",
            f"{NODES}/n1/status",
            {"status": {"addresses": [address], "daemonEndpoints": endpoints}},
        )
        yield found
        for path in (f"{PODS}/digits-0", f"{JOBS}/digits", f"{NODES}/n1"):
            torchrunjobs.request("DELETE", path, {"gracePeriodSeconds": 0})


@pytest.fixture
def kubelet(torchrunjobs: Any, machine: Kubelet) -> Kubelet:
    """Start a Kubernetes node with one pod of a job."""
    send(torchrunjobs, "POST", JOBS, MANIFEST)
    start_pod(torchrunjobs)
    return machine


MANIFEST = {
    "apiVersion": "torchrun.dev/v1alpha1",
    "kind": "TorchrunJob",
    "metadata": {"name": "digits"},
    "spec": {"nnodes": 1, "template": {"spec": {"containers": [CONTAINER]}}},
}


def start_pod(server: Any) -> None:
    labels = {"job-name": "digits", "role": "node", "node-index": "0"}
    metadata = {"name": "digits-0", "labels": {f"torchrun.dev/{key}": value for key, value in labels.items()}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
    send(server, "POST", PODS, pod | {"spec": {"nodeName": "n1", "containers": [CONTAINER]}})
    set_state(server, "Running", {"running": {"startedAt": f"{T}0Z"}})


def end(server: Any, condition: str) -> None:
    """End the pod and the job, as kubelet and operator do."""
    ended = {"terminated": {"exitCode": 0 if condition == "Complete" else 1, "finishedAt": f"{T}4Z"}}
    set_state(server, "Succeeded" if condition == "Complete" else "Failed", ended)
    found = {"type": condition, "status": "True", "reason": "Because", "message": "so", "lastTransitionTime": f"{T}4Z"}
    send(server, "PATCH", f"{JOBS}/digits/status", {"status": {"state": condition, "conditions": [found]}})


def send(server: Any, method: str, path: str, body: Any) -> None:
    status, answer = server.request(method, path, body)
    assert status < 300, answer["message"]


def set_state(server: Any, phase: str, state: dict[str, Any]) -> None:
    container = {"name": "trainer", "image": "training", "imageID": "", "ready": True, "restartCount": 0}
    status = {"phase": phase, "containerStatuses": [container | {"state": state}]}
    send(server, "PATCH", f"{PODS}/digits-0/status", {"status": status})


def environment(server: Any) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "KUBECONFIG": str(server.kubeconfig)}


def test_the_log_of_a_pod(torchrunjobs: Any, kubelet: Kubelet) -> None:
    kubelet.answers = [[f"{T}0.5Z one", f"{T}1Z [default1]: two"]]
    command = [PROGRAM, "logs", "digits", "--tail", "7", "--since", "1h"]
    done = subprocess.run(
        command, env=environment(torchrunjobs), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("digits-0 | one\ndigits-0 | [default1]: two\n", "", 0)
    ((path, query),) = kubelet.requests
    assert path == "/containerLogs/default/digits-0/trainer"
    assert {key: query[key] for key in ("tailLines", "timestamps")} == {"tailLines": "7", "timestamps": "true"}
    assert "sinceTime" in query


def test_a_log_is_followed_over_broken_connections(torchrunjobs: Any, kubelet: Kubelet) -> None:
    kubelet.answers = [
        [f"{T}0Z one", f"{T}1.5Z two"],
        [f"{T}1.5Z two", f"{T}2.5Z three", "CUT"],
        [f"{T}2.5Z three", f"{T}2.5Z again", f"{T}3Z four"],
    ]
    command, found = [PROGRAM, "logs", "digits", "--follow", "--no-prefix"], []
    with subprocess.Popen(command, env=environment(torchrunjobs), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            found.append(line.rstrip())
            if found[-1] == "four":
                end(torchrunjobs, "Complete")
    assert (found, process.returncode) == (["one", "two", "three", "again", "four"], 0)
    since = [query.get("sinceTime") for _, query in kubelet.requests[:3]]
    assert since == [None, f"{T}1Z", f"{T}2Z"]
    assert [query.get("follow") for _, query in kubelet.requests[:3]] == [None, "true", "true"]


@pytest.mark.parametrize(
    ("condition", "code", "last", "error"),
    [
        ("Complete", 0, ["torchrunjob.torchrun.dev/digits complete"], ""),
        ("Failed", 1, [], "error: digits ended without condition Complete=True: Failed (Because): so"),
    ],
)
def test_submit_follows_the_logs_to_the_end(
    torchrunjobs: Any, machine: Kubelet, tmp_path: Path, condition: str, code: int, last: list[str], error: str
) -> None:
    """The test plays the operator and the kubelet: the pod comes after the job, and ends once its lines are there."""
    (tmp_path / "job.yaml").write_text(json.dumps(MANIFEST))
    lines = [f"{T}1Z one", f"{T}2Z two"]
    machine.answers = [lines[:1], lines, lines, lines]
    found: list[str] = []
    command = [PROGRAM, "submit", str(tmp_path / "job.yaml"), "--follow"]
    with subprocess.Popen(
        command, env=environment(torchrunjobs), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            found.append(line.rstrip())
            if len(found) == 1:
                start_pod(torchrunjobs)
            elif found[-1] == "digits-0 | two":
                end(torchrunjobs, condition)
        said = process.stderr.read().splitlines()
    created = "torchrunjob.torchrun.dev/digits created"
    assert found == [created, "digits-0 | one", "digits-0 | two", *last], said
    assert (process.returncode, said[-1] if error else error) == (code, error), said
