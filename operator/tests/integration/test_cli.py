"""`kubectl torchrun` as a process, against the real API server of the integration tests."""

import copy
import json
import os
import select
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


def test_list_and_status(cli: Run, job: Callable[..., str], torchrunjobs: Any) -> None:
    assert torchrunjobs.request("DELETE", JOBS)[0] == 200
    assert cli("list").stderr == "No jobs found in namespace default.\n"
    job("digits", **JOB["status"])
    shown = cli("list", "-A")
    head, *rows = (line.split()[:5] for line in shown.stdout.splitlines())
    assert head == ["NAMESPACE", "NAME", "STATE", "NODES", "WORKERS"]
    assert [row for row in rows if row[0] == "default"] == [["default", "digits", "Running", "3/2:4", "6"]]
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
    assert [line.split()[1:] for line in cli("timeline", "digits").stdout.splitlines()[-1:]] == [
        ["OfTorchrunJob", "hello"]
    ]
    assert cli("timeline", "digits", "--svg", "-").stdout.startswith("<svg ")


def spec_of(server: Any, path: str) -> dict[str, Any]:
    found: dict[str, Any] = server.request("GET", path)[1]["spec"]
    return {key: found[key] for key in ("replicas", "suspend", "activeDeadlineSeconds") if key in found}


NAMED = "torchrunjob.torchrun.dev/digits"


def test_changes(cli: Run, job: Callable[..., str], torchrunjobs: Any) -> None:
    path = job("digits")
    found = []
    for args in (["scale", "digits", "3"], ["suspend", "digits"], ["resume", "digits"], ["cancel", "digits"]):
        done = cli(*args)
        assert (done.returncode, done.stderr) == (0, "")
        found.append((done.stdout, spec_of(torchrunjobs, path)))
    assert found == [
        (f"{NAMED} scaled\n", {"replicas": 3, "suspend": False}),
        (f"{NAMED} suspended\n", {"replicas": 3, "suspend": True}),
        (f"{NAMED} resumed\n", {"replicas": 3, "suspend": False}),
        (f"{NAMED} cancelled\n", {"replicas": 3, "suspend": False, "activeDeadlineSeconds": 1}),
    ]
    deleted = cli("delete", "digits", "none", "--wait")
    assert (deleted.returncode, deleted.stdout, deleted.stderr) == (3, f"{NAMED} deleted\n", ABSENT)
    assert cli("delete", "none", "--ignore-not-found").returncode == 0
    assert cli("wait", "digits", "--for=deleted").stdout == f"{NAMED} deleted\n"


def test_no_change_of_a_job_that_has_ended(cli: Run, job: Callable[..., str]) -> None:
    job("digits", state="Failed", conditions=[condition("Failed")])
    done = cli("scale", "digits", "3")
    words = "error: digits is Failed, so there is nothing to scale: submit a new job\n"
    assert (done.returncode, done.stderr) == (4, words)


def test_a_size_out_of_range_is_refused(cli: Run, job: Callable[..., str]) -> None:
    job("digits")
    done = cli("scale", "digits", "9")
    assert (done.returncode, "spec.replicas" in done.stderr) == (4, True), done.stderr


def condition(kind: str, status: str = "True", reason: str = "Because") -> dict[str, Any]:
    moment = "2026-01-31T12:00:00Z"
    about = {"type": kind, "status": status, "reason": reason, "message": "so it is"}
    return about | {"lastTransitionTime": moment, "observedGeneration": 99}


@pytest.mark.parametrize(
    ("wish", "kind", "code", "output"),
    [
        ("running", "Running", 0, f"{NAMED} condition met\n"),
        ("condition=running", "Running", 0, f"{NAMED} condition met\n"),
        ("complete", "Failed", 1, "error: digits ended without condition Complete=True: Failed (Because): so it is\n"),
        (
            "complete",
            "Running",
            124,
            "error: timed out after 1 s waiting for condition Complete=True of digits: it is \n",
        ),
    ],
)
def test_wait(cli: Run, job: Callable[..., str], wish: str, kind: str, code: int, output: str) -> None:
    job("digits", state="Failed" if kind == "Failed" else "Running", conditions=[condition(kind)])
    done = cli("wait", "digits", f"--for={wish}", "--timeout=1s")
    assert (done.returncode, done.stdout + done.stderr) == (code, output.replace("it is \n", "it is Running\n"))


def test_a_watch_sees_what_comes(cli: Run, job: Callable[..., str], torchrunjobs: Any) -> None:
    """The operator is played by the test: it completes the job once the screen shows it."""
    path = job("digits", state="Running")
    with subprocess.Popen(
        [PROGRAM, "status", "digits", "--watch"],
        env={"PATH": os.environ["PATH"], "KUBECONFIG": str(torchrunjobs.kubeconfig)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "digits   Running\n"
        change = {"status": {"state": "Complete", "conditions": [condition("Complete")]}}
        assert torchrunjobs.request("PATCH", f"{path}/status", change)[0] == 200
        assert "digits   Complete\n" in process.stdout.read()
    assert process.returncode == 0
    assert cli("wait", "digits").returncode == 0


def test_restart_waits_for_the_pods(cli: Run, job: Callable[..., str], torchrunjobs: Any) -> None:
    path = job("digits", state="Running")
    ended = {"status": {"state": "Suspended", "conditions": [condition("Suspended", reason="Suspended")]}}
    with subprocess.Popen(
        [PROGRAM, "restart", "digits"],
        env={"PATH": os.environ["PATH"], "KUBECONFIG": str(torchrunjobs.kubeconfig)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        while not spec_of(torchrunjobs, path).get("suspend"):
            assert process.poll() is None
        assert torchrunjobs.request("PATCH", f"{path}/status", ended)[0] == 200
        assert process.communicate()[0] == f"{NAMED} restarted\n"
    assert spec_of(torchrunjobs, path) == {"suspend": False}
    running = {"status": {"state": "Running", "conditions": [condition("Suspended", status="False")]}}
    assert torchrunjobs.request("PATCH", f"{path}/status", running)[0] == 200
    done = cli("restart", "digits", "--timeout=1s")
    hint = "digits stays suspended: run kubectl torchrun resume digits once its pods have ended\n"
    assert (done.returncode, done.stderr[: len(hint)]) == (124, hint)
    assert spec_of(torchrunjobs, path) == {"suspend": True}


def test_what_has_no_pods(cli: Run, job: Callable[..., str]) -> None:
    job("digits", message="waits for room")
    for args, code, error in (
        (["logs", "digits"], 1, "error: digits has no pods now: waits for room\n"),
        (["exec", "digits", "--", "ls"], 1, "error: no node of digits runs now\n"),
        (["port-forward", "digits", "1"], 1, "error: no node of digits runs now\n"),
        (["restart", "digits", "--node", "1"], 3, "error: node 1 of digits has no pod now\n"),
        (["tensorboard", "digits"], 2, "error: digits has no spec.snapshots, so there is no volume to show\n"),
    ):
        done = cli(*args)
        assert (done.returncode, done.stderr) == (code, error)


def test_doctor(cli: Run, job: Callable[..., str]) -> None:
    """Without controllers, nothing starts: the operator has not seen the job, and there are no Kubernetes nodes."""
    job("digits")
    done = cli("doctor", "digits", "-o", "json")
    found = {each["check"]: each["result"] for each in json.loads(done.stdout)["checks"]}
    assert (done.returncode, done.stderr) == (1, "")
    assert found == {
        "conditions": "warning",
        "spec": "ok",
        "quota": "ok",
        "pod security": "ok",
        "room": "failed",
        "network policies": "ok",
        "clocks": "ok",
        "operator": "failed",
    }
    done = cli("doctor")
    rows = {line.split()[1]: line.split()[0] for line in done.stdout.splitlines() if line[:1] not in (" ", "")}
    assert (done.returncode, rows["resource"], rows["operator"]) == (1, "ok", "failed"), done.stdout
    assert cli("doctor", "none").stderr == ABSENT


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


def test_a_watch_on_a_terminal(job: Callable[..., str], torchrunjobs: Any) -> None:
    """The screen goes away at the end, and the last state stays."""
    path, shown = job("digits", state="Running"), b""
    terminal, other_end = os.openpty()
    env = {"PATH": os.environ["PATH"], "KUBECONFIG": str(torchrunjobs.kubeconfig), "TERM": "xterm"}
    with subprocess.Popen(
        [PROGRAM, "status", "digits", "-w"], env=env, stdin=other_end, stdout=other_end, stderr=other_end
    ) as process:
        os.close(other_end)
        try:
            while piece := _read(terminal):
                before, shown = shown, shown + piece
                if b"Running" in shown and b"Running" not in before:
                    change = {"status": {"state": "Complete", "conditions": [condition("Complete")]}}
                    assert torchrunjobs.request("PATCH", f"{path}/status", change)[0] == 200
        finally:
            os.close(terminal)  # ends the program as well
    screen, left, rest = shown.partition(b"\x1b[?1049l")
    assert (b"\x1b[?1049h" in screen, bool(left), process.returncode) == (True, True, 0)
    assert b"\x1b[1mdigits\x1b[0m   \x1b[1;32mComplete\x1b[0m" in rest


def _read(terminal: int) -> bytes:
    try:
        ready, _, _ = select.select([terminal], [], [], 60.0)
        assert ready, "the screen did not change for a minute"
        return os.read(terminal, 65536)
    except OSError:  # the program has ended
        return b""
