"""The commands that read logs, run kubectl or start a pod, in a process of the tests."""

import os
import stat
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from cli_cluster import refused
from cli_logs import LiveJob
from torchrun_cli.app import PROGRAM, app
from torchrun_cli.cluster.programs import kubectl
from torchrun_cli.cluster.waiting import decided, wish_of
from torchrun_cli.errors import CliError
from torchrun_cli.options import Target
from torchrun_cli.show.tensorboard import pod_state, tensorboard_pod
from torchrun_cli.show.times import seconds_of

T = "2026-01-31T12:00:0"


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> LiveJob:
    """A job of three nodes that the commands see. Nodes 0 and 1 run, node 2 waits."""
    found = LiveJob()
    for command in ("logs", "exec", "port_forward"):
        monkeypatch.setattr(f"torchrun_cli.commands.{command}.connect", lambda _: found.client())
    found.job["spec"] = {"nnodes": "2:12", "nprocPerNode": 2}
    found.set_pod(0, "a", "terminated")
    found.set_pod(1, "b", "terminated", phase="Failed")
    found.set_pod(2, "c", "waiting")
    found.write("a", f"{T}0Z [default0]: one", f"{T}2Z [default1]: three")
    found.write("b", f"{T}1Z [rank3]: two", f"{T}3Z four")
    nodes = [{"index": 0, "uid": "a", "rank": 0}, {"index": 1, "uid": "b", "rank": 1}]
    found.set_job(state="Running", membership={"nodes": 2, "worldSize": 4}, nodes=nodes)
    return found


def run(*args: str) -> Result:
    return CliRunner().invoke(app, args, prog_name=PROGRAM)


FAILURE = {"time": "2026-01-31T12:00:00Z", "cause": "code", "pod": "digits-7", "traceback": "Traceback\n  line"}


@pytest.mark.parametrize(
    ("args", "lines"),
    [
        pytest.param(
            [],
            [
                *("digits-0  | [default0]: one", "digits-1  | [rank3]: two"),
                *("digits-0  | [default1]: three", "digits-1  | four"),
            ],
            id="all nodes in the order of time",
        ),
        pytest.param(["--node", "1"], ["digits-1  | [rank3]: two", "digits-1  | four"], id="one node"),
        pytest.param(["--rank", "1", "--no-prefix"], ["[default1]: three"], id="one rank"),
        pytest.param(["--rank", "2"], ["digits-1  | four"], id="a line that does not say its rank counts"),
        pytest.param(["--failed", "--no-prefix"], ["[rank3]: two", "four"], id="failed pods"),
        pytest.param(
            ["--tail", "1", "--timestamps", "--no-prefix"],
            ["2026-01-31T12:00:02.000000000Z [default1]: three", "2026-01-31T12:00:03.000000000Z four"],
            id="the end, with times",
        ),
    ],
)
@pytest.mark.usefixtures("live")
def test_logs(args: list[str], lines: list[str]) -> None:
    done = run("logs", "digits", *args)
    assert (done.exit_code, done.stdout.splitlines(), done.stderr) == (0, lines, "")


def test_logs_that_are_followed_end_with_the_job(live: LiveJob) -> None:
    live.end_job()
    live.job["status"]["message"] = "all nodes succeeded"
    live.set_pod(3, "d", "terminated")
    live.write("d", f"{T}4Z five")
    done = run("logs", "digits", "-f", "--node", "3")
    assert (done.exit_code, done.stdout) == (0, "digits-3  | five\n")
    assert done.stderr == "digits is Complete: all nodes succeeded\n"


@pytest.mark.parametrize(
    ("args", "status", "code", "error"),
    [
        (["--node", "9"], {}, 1, "error: digits has no such node now\n"),
        (["--rank", "1"], {}, 1, "error: the ranks are unknown, because no round is complete yet: use --node\n"),
        (["-f", "--failed"], {}, 2, "error: --follow cannot be combined with --failed or --previous\n"),
        (["--since", "yesterday"], {}, 2, "error: 'yesterday' is no duration: write 90s, 5m or 1h30m\n"),
    ],
)
def test_logs_that_cannot_be_shown(
    live: LiveJob, args: list[str], status: dict[str, Any], code: int, error: str
) -> None:
    live.job["spec"]["nprocPerNode"] = "gpu"
    live.set_job(**status)
    done = run("logs", "digits", *args)
    assert (done.exit_code, done.stdout) == (code, "")
    assert done.stderr.startswith(error)


def test_what_the_status_keeps_of_a_pod_that_is_gone(live: LiveJob) -> None:
    live.delete_pod("b")
    live.set_job(state="Running", lastFailure=FAILURE)
    done = run("logs", "digits", "--failed")
    assert (done.exit_code, done.stderr) == (0, "These pods left no log. The status keeps of the last failure:\n")
    assert done.stdout.splitlines()[1:] == ["  pod digits-7", "    Traceback", "      line"]
    live.set_job(state="Running")
    assert (run("logs", "digits", "--failed").stderr) == "error: no node of digits has failed\n"


def test_containers_that_were_not_restarted(live: LiveJob) -> None:
    words = "error: digits has no earlier containers: the operator replaces pods instead of restarting them\n"
    for name in ("digits-0", "digits-1", "digits-2"):
        live.refusals[name] = refused(400, "BadRequest", "previous terminated container not found")
    done = run("logs", "digits", "--previous")
    notes = "".join(f"digits-{index}: previous terminated container not found\n" for index in range(3))
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", notes + words)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kubectl that prints its arguments, and fails in the second node."""
    program = tmp_path / "kubectl"
    program.write_text('#!/bin/sh\necho "$@"\necho oops >&2\ncase "$*" in *digits-1*) exit 5;; esac\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    return program


def test_a_command_runs_in_all_nodes(live: LiveJob, programs: Path) -> None:
    del programs
    live.set_pod(0, "a")
    live.set_pod(1, "b")
    done = run("exec", "digits", "--all", "--context", "here", "--", "ls", "-l")
    command = "--context=here --namespace=ml exec digits-{} -c trainer -- ls -l"
    assert done.exit_code == 5
    assert sorted(done.stdout.splitlines()) == [f"digits-{i} | {command.format(i)}" for i in (0, 1)]
    assert sorted(done.stderr.splitlines()) == ["digits-0 | oops", "digits-1 | oops"]


@pytest.mark.parametrize(
    ("args", "output", "code"),
    [
        (["exec", "digits", "--", "ls", "-l"], "--namespace=ml exec -i digits-0 -c trainer -- ls -l", 0),
        (["exec", "digits", "--node", "1", "-c", "x", "--", "a"], None, 1),
        (["exec", "digits", "--node", "1", "--", "a"], "--namespace=ml exec -i digits-1 -c trainer -- a", 5),
        (["port-forward", "digits", "1:2", "3"], "--namespace=ml port-forward pod/digits-0 1:2 3", 0),
        (["port-forward", "digits", "--node", "2", "1"], None, 1),
    ],
)
def test_what_kubectl_runs(
    live: LiveJob, programs: Path, capfd: pytest.CaptureFixture[str], args: list[str], output: str | None, code: int
) -> None:
    del programs
    live.set_pod(0, "a")
    live.set_pod(1, "b")
    done = run(*args)
    assert (capfd.readouterr().out, done.exit_code) == (f"{output}\n" if output else "", code)


def test_without_kubectl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CliError, match="kubectl is not on PATH, and this command needs it: install it from"):
        kubectl(Target(), "ml", "exec")


JOB = {
    "metadata": {"name": "digits", "namespace": "ml", "uid": "u"},
    "spec": {
        "snapshots": {"mountPath": "/s", "volumeClaimTemplate": {}},
        "template": {
            "spec": {
                "nodeSelector": {"a": "b"},
                "hostIPC": True,
                "containers": [
                    {"name": "other", "image": "o"},
                    {"name": "trainer", "image": "i", "imagePullPolicy": "Never", "command": ["x"]},
                ],
            }
        },
    },
}
SHELL = 'command -v tensorboard >/dev/null && exec tensorboard "$@"; exec python3 -m tensorboard.main "$@"'


def test_the_pod_of_tensorboard() -> None:
    options = ["--logdir", "/snapshots/runs", "--port", "6006", "--bind_all"]
    assert tensorboard_pod(JOB, logdir="runs") == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "digits-tensorboard-",
            "namespace": "ml",
            "ownerReferences": [
                {"apiVersion": "torchrun.dev/v1alpha1", "kind": "TorchrunJob", "name": "digits", "uid": "u"}
            ],
        },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "containers": [
                {
                    "name": "tensorboard",
                    "image": "i",
                    "command": ["sh", "-c", SHELL, "tensorboard", *options],
                    "ports": [{"containerPort": 6006}],
                    "readinessProbe": {"tcpSocket": {"port": 6006}, "periodSeconds": 1},
                    "volumeMounts": [{"name": "snapshots", "mountPath": "/snapshots", "readOnly": True}],
                    "imagePullPolicy": "Never",
                }
            ],
            "volumes": [{"name": "snapshots", "persistentVolumeClaim": {"claimName": "digits-snapshots"}}],
            "nodeSelector": {"a": "b"},
        },
    }
    other = tensorboard_pod(JOB | {"spec": JOB["spec"] | {"snapshots": {"claimName": "c"}}}, image="t")  # type: ignore[operator]
    assert other["spec"]["volumes"][0]["persistentVolumeClaim"] == {"claimName": "c"}
    assert other["spec"]["containers"][0]["image"] == "t"


@pytest.mark.parametrize("logdir", ["..", "/etc", "a/../../b"])
def test_tensorboard_stays_inside_of_the_snapshots(logdir: str) -> None:
    with pytest.raises(CliError, match="lies outside of the snapshots"):
        tensorboard_pod(JOB, logdir=logdir)


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ({}, (False, False, "Pending")),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "message": "no room"}]},
            (False, False, "no room"),
        ),
        (
            {"containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull", "message": "none"}}}]},
            (False, False, "ErrImagePull none"),
        ),
        (
            {"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 1}}}]},
            (False, True, "exit code 1"),
        ),
        ({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}, (True, False, "Running")),
    ],
)
def test_the_state_of_a_pod(status: dict[str, Any], state: tuple[bool, bool, str]) -> None:
    assert pod_state({"status": status}) == state


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1h30m", 5400), ("2d", 172800), ("0.5s", 0.5), ("1d1h1m1s", 90061)]
)
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "5m1h", "-5s", "5 m"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(CliError, match="is no duration"):
        seconds_of(text)


def waited(**condition: Any) -> dict[str, Any]:
    return {"metadata": {"generation": 2}, "status": {"conditions": [{"observedGeneration": 2} | condition]}}


@pytest.mark.parametrize(
    ("wish", "job", "met"),
    [
        ("running", waited(type="Running", status="True"), True),
        ("running", waited(type="Running", status="True", observedGeneration=1), False),
        ("complete", waited(type="Complete", status="True", observedGeneration=1), True),
        ("condition=resizing=false", waited(type="Resizing", status="False"), True),
        ("condition=Resizing", waited(type="Resizing", status="False"), False),
        ("condition=Scheduled", {"metadata": {}}, False),
        ("suspended", waited(type="Suspended", status="True", reason="Suspending"), False),
        ("suspended", waited(type="Suspended", status="True", reason="Suspended"), True),
        ("deleted", waited(type="Suspended", status="True"), False),
    ],
)
def test_wishes(wish: str, job: dict[str, Any], met: bool) -> None:
    assert wish_of(wish).test(job) is met


@pytest.mark.parametrize(
    ("wish", "state", "ends"),
    [
        ("condition=OutputsUploaded", "Waiting", False),
        ("condition=outputsuploaded", "Uploading", False),
        ("condition=OutputsUploaded", "Failed", True),
        ("running", "Uploading", True),
    ],
)
def test_outputs_are_uploaded_after_the_end(wish: str, state: str, *, ends: bool) -> None:
    job = waited(type="Complete", status="True")
    job["status"] |= {"state": "Complete", "outputs": [{"path": "/snapshots/model", "state": state}]}
    with pytest.raises(CliError, match="ended without") if ends else nullcontext():
        assert not decided(job, "digits", wish_of(wish))


@pytest.mark.parametrize("wish", ["condition=", "done", "condition"])
def test_unknown_wishes(wish: str) -> None:
    with pytest.raises(CliError, match="is not known: write condition=TYPE"):
        wish_of(wish)


def test_options_that_exclude_each_other() -> None:
    for args in (["status", "a", "-w", "-o", "json"], ["exec", "a", "--all", "--node", "1", "--", "ls"]):
        assert run(*args).exit_code == 2
    assert isinstance(app, click.Group)
