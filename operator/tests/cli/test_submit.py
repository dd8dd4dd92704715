"""submit: what is sent, what is said, and that nothing is sent unless the whole job is valid."""

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from cli_cluster import Reply, Script, refused, said, scripted, stream
from torchrun_cli.app import PROGRAM, app
from torchrun_cli.options import Target

MANIFEST = """\
default-values: {max_nodes: 4}
apiVersion: torchrun.dev/v1alpha1
kind: TorchrunJob
metadata: {name: digits}
spec:
  nnodes: "2:{{ max_nodes }}"
  template:
    spec:
      containers:
      - {name: trainer, image: "train:1", command: [torchrun, /workspace/train.py]}
"""
SENT: dict[str, Any] = {
    "apiVersion": "torchrun.dev/v1alpha1",
    "kind": "TorchrunJob",
    "metadata": {"name": "digits"},
    "spec": {
        "nnodes": "2:4",
        "template": {
            "spec": {
                "containers": [{"name": "trainer", "image": "train:1", "command": ["torchrun", "/workspace/train.py"]}]
            }
        },
    },
}
PATH = "/apis/torchrun.dev/v1alpha1/namespaces/ml/torchrunjobs"
QUERY = "fieldManager=kubectl-torchrun&fieldValidation=Strict"
CREATED = {
    **SENT,
    "metadata": {"name": "digits", "namespace": "ml", "uid": "u", "generation": 1, "resourceVersion": "1"},
}
EXISTS = (
    "digits already exists in the namespace ml; choose another name with --name or --generate-name, or delete it "
    "first: kubectl torchrun delete digits -n ml"
)
USAGE = "\nSee 'kubectl torchrun submit --help' for usage."
SAID = "torchrunjob.torchrun.dev/digits"
FAILED = "error: digits ended without condition Complete=True: Failed (Why): so it is"


class Submit:
    """Runs submit with a scripted API server."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self.script: Script | None = None
        self.targets: list[Target] = []

    def __call__(self, *args: str, replies: tuple[Reply, ...] = (), stdin: str = MANIFEST) -> Result:
        client, self.script = scripted(*replies)

        def connect(target: Target) -> Any:
            self.targets.append(target)
            return client

        self._patch.setattr("torchrun_cli.cluster.client.connect", connect)
        return CliRunner().invoke(app, ["submit", "-", *args], prog_name=PROGRAM, input=stdin)


@pytest.fixture
def submit(monkeypatch: pytest.MonkeyPatch) -> Submit:
    return Submit(monkeypatch)


@pytest.mark.parametrize(
    ("args", "sent", "query", "output"),
    [
        ([], SENT, QUERY, "torchrunjob.torchrun.dev/digits created\n"),
        (["--set", "max_nodes=8"], {**SENT, "spec": {**SENT["spec"], "nnodes": "2:8"}}, QUERY,
         "torchrunjob.torchrun.dev/digits created\n"),
        (["--generate-name", "try-"], {**SENT, "metadata": {"generateName": "try-"}}, QUERY,
         "torchrunjob.torchrun.dev/digits created\n"),
        (["--dry-run"], SENT, "fieldManager=kubectl-torchrun&dryRun=All&fieldValidation=Strict",
         "torchrunjob.torchrun.dev/digits created (server dry run)\n"),
        (["-o", "name"], SENT, QUERY, "torchrunjob.torchrun.dev/digits\n"),
        (["-o", "json"], SENT, QUERY, json.dumps(CREATED, indent=4) + "\n"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_one_request_creates_the_job(
    submit: Submit, args: list[str], sent: dict[str, Any], query: str, output: str
) -> None:
    result = submit(*args, replies=(said(CREATED, 201),))
    assert (result.exit_code, result.output) == (0, output)
    assert submit.script is not None
    assert submit.script.requests == [("POST", f"{PATH}?{query}", sent)]


@pytest.mark.parametrize(
    ("args", "stdin", "code", "error"),
    [
        (["--set", "max_nodes=1"], MANIFEST, 2, 'stdin:6: spec.nnodes: MIN is greater than MAX; write "1:2"'),
        (["--set", "max_node=1"], MANIFEST, 2,
         "--set max_node=1: the manifest has no value 'max_node'; did you mean 'max_nodes'?"),
        ([], "kind: Job", 2, "stdin:1: kind: Job is no TorchrunJob; 'kubectl torchrun convert' may convert it"),
        (["-n", "ml"], MANIFEST.replace("{name: digits}", "{name: digits, namespace: other}"), 2,
         "the manifest is for the namespace other, not ml; change one of them"),
        (["--dry-run", "--wait"], MANIFEST, 2,
         f"with --dry-run there is no job to wait for; remove --wait and --follow{USAGE}"),
        (["-o", "name", "--follow"], MANIFEST, 2,
         f"with -o, stdout has the job alone; remove --follow, and run kubectl torchrun logs -f{USAGE}"),
        (["--timeout", "5m"], MANIFEST, 2, f"--timeout needs --wait{USAGE}"),
        (["--wait", "--timeout", "5"], MANIFEST, 2, "'5' is no duration: write 90s, 5m or 1h30m"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_nothing_is_sent_of_a_wrong_manifest(
    submit: Submit, args: list[str], stdin: str, code: int, error: str
) -> None:
    result = submit(*args, stdin=stdin)
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", f"error: {error}\n")
    assert submit.targets == []


@pytest.mark.parametrize(
    ("reply", "code", "error"),
    [
        (refused(409, "AlreadyExists", "exists"), 4, EXISTS),
        (refused(403, "Forbidden", "exceeded quota"), 4, "exceeded quota"),
        (refused(422, "Invalid", "spec.x: no"), 4, "spec.x: no"),
    ],
)
def test_what_the_api_server_refuses(submit: Submit, reply: Reply, code: int, error: str) -> None:
    result = submit(replies=(reply,))
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", f"error: {error}\n")


def ended(kind: str) -> dict[str, Any]:
    condition = {"type": kind, "status": "True", "reason": "Why", "message": "so it is", "observedGeneration": 1}
    metadata = {**CREATED["metadata"], "resourceVersion": "2"}
    return {**CREATED, "metadata": metadata, "status": {"state": kind, "conditions": [condition]}}


@pytest.mark.parametrize(
    ("kind", "code", "output"),
    [
        ("Complete", 0, f"{SAID} created\n{SAID} complete\n"),
        ("Failed", 1, f"{SAID} created\n{FAILED}\n"),
    ],
)
def test_wait(submit: Submit, kind: str, code: int, output: str) -> None:
    listed = {"metadata": {"resourceVersion": "1"}, "items": [CREATED]}
    watched = stream({"type": "MODIFIED", "object": ended(kind)})
    result = submit("--wait", replies=(said(CREATED, 201), said(CREATED), said(listed), watched))
    assert (result.exit_code, result.output) == (code, output)


def test_with_a_format_stdout_has_the_job_alone(submit: Submit) -> None:
    listed = {"metadata": {"resourceVersion": "2"}, "items": [ended("Complete")]}
    result = submit("--wait", "-o", "name", replies=(said(CREATED, 201), said(ended("Complete")), said(listed)))
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{SAID}\n", f"{SAID} complete\n")


def test_follow_prints_the_logs_and_then_tells_how_the_job_ended(
    submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchrun_cli.commands.logs.print_to_end", lambda _, name: click.echo(f"logs of {name}"))
    listed = {"metadata": {"resourceVersion": "2"}, "items": [ended("Failed")]}
    result = submit("--follow", replies=(said(CREATED, 201), said(ended("Failed")), said(listed)))
    assert (result.exit_code, result.output) == (1, f"{SAID} created\nlogs of digits\n{FAILED}\n")


def test_the_namespace_of_the_manifest_chooses_the_cluster_s(submit: Submit, tmp_path: Path) -> None:
    text = MANIFEST.replace("{name: digits}", "{name: digits, namespace: other}")
    submit("--context", "here", stdin=text, replies=(said(CREATED, 201),))
    assert submit.targets == [Target(context="here", namespace="other")]
