"""`kubectl torchrun logs` as a process, against the real API server and a kubelet that the test plays."""

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
def kubelet(torchrunjobs: Any, tmp_path: Path) -> Iterator[Kubelet]:
    """Start a Kubernetes node with one pod of a job."""
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
        spec = {"nnodes": 1, "template": {"spec": {"containers": [CONTAINER]}}}
        job = {"apiVersion": "torchrun.dev/v1alpha1", "kind": "TorchrunJob", "metadata": {"name": "digits"}}
        send(torchrunjobs, "POST", JOBS, job | {"spec": spec})
        labels = {"job-name": "digits", "role": "node", "node-index": "0"}
        metadata = {"name": "digits-0", "labels": {f"torchrun.dev/{key}": value for key, value in labels.items()}}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
        send(torchrunjobs, "POST", PODS, pod | {"spec": {"nodeName": "n1", "containers": [CONTAINER]}})
        set_state(torchrunjobs, "Running", {"running": {"startedAt": f"{T}0Z"}})
        yield found
        for path in (f"{PODS}/digits-0", f"{JOBS}/digits", f"{NODES}/n1"):
            torchrunjobs.request("DELETE", path, {"gracePeriodSeconds": 0})


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
                set_state(torchrunjobs, "Succeeded", {"terminated": {"exitCode": 0, "finishedAt": f"{T}4Z"}})
                condition = {"type": "Complete", "status": "True", "reason": "Finished", "lastTransitionTime": f"{T}4Z"}
                send(torchrunjobs, "PATCH", f"{JOBS}/digits/status", {"status": {"conditions": [condition]}})
    assert (found, process.returncode) == (["one", "two", "three", "again", "four"], 0)
    since = [query.get("sinceTime") for _, query in kubelet.requests[:3]]
    assert since == [None, f"{T}1Z", f"{T}2Z"]
    assert [query.get("follow") for _, query in kubelet.requests[:3]] == [None, "true", "true"]
