"""`kubectl torchrun outputs`: what it shows, retries and downloads."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli_outputs import OutputsJob
from torchrun_cli.app import PROGRAM, app
from torchrun_cli.show.outputs import directory_names, output_table, size_words
from torchrun_transfer.download import PARTS
from torchrun_transfer.manifest import MANIFEST, Entry, Manifest, written
from torchrun_transfer.run import Runner
from torchrun_transfer.task import Task
from transfers import LEGAL_NAMES, Clock, Content, read_tree, write_tree

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
MODEL = {"path": "/snapshots/model", "url": "s3://results/model", "secretRef": {"name": "s3"}}
LOGS = {"path": "/snapshots/logs", "url": "s3://results/logs", "when": "Periodic", "seconds": 60}
REFUSED = "s3://results/model refuses access"
CONTENT = {"model.pt": b"weights" * 1000, "deep/er/log.txt": b"line\n", "empty": b""}


def condition(status: str, reason: str, message: str = "words") -> dict[str, Any]:
    return {
        "type": "OutputsUploaded",
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-01-31T11:55:00Z",
    }


def ended(*outputs: dict[str, Any], **upload: Any) -> dict[str, Any]:
    """Return the status of a complete job."""
    complete = {"type": "Complete", "status": "True", "reason": "Succeeded", "message": "all nodes succeeded"}
    failed = any(each["state"] == "Failed" for each in outputs)
    told = condition("False", "UploadFailed", REFUSED) if failed else condition("True", "Uploaded")
    outcome = {"digest": "1", **upload}
    return {"state": "Complete", "conditions": [complete, told], "outputs": [*outputs], "upload": outcome}


def state(output: dict[str, Any], word: str, **more: Any) -> dict[str, Any]:
    return {"path": output["path"], "url": output["url"], "state": word, **more}


FAILED = state(MODEL, "Failed", message=REFUSED)
UPLOADED = state(MODEL, "Uploaded", files=3, bytes=7005)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OutputsJob:
    directory = tmp_path / "kubectl"
    directory.mkdir()
    found = OutputsJob([MODEL, LOGS], directory, ended(UPLOADED, state(LOGS, "Uploaded", files=1, bytes=1 << 21)))
    monkeypatch.setattr("torchrun_cli.commands.outputs.connect", lambda _: found.client())
    monkeypatch.setenv("PATH", found.provide_kubectl())
    clock = Clock()
    monkeypatch.setattr("torchrun_cli.commands.outputs.sleep", clock.pause)
    monkeypatch.setattr("torchrun_cli.commands.outputs.monotonic", clock)
    return found


def run(*args: str) -> Result:
    return CliRunner().invoke(app, ["outputs", "digits", *args], prog_name=PROGRAM)


def uploaded(root: Path, content: Content, **job: str) -> str:
    """Write files and their manifest as an upload does, and return the URL."""
    write_tree(root / "source", content)
    owner = {"namespace": "ml", "name": "digits", "uid": "u"} | job
    url = f"file://{root}/copy"
    assert Runner().upload(Task(url, str(root / "source"), job=owner)).error == ""
    return url


@pytest.fixture
def volume(job: OutputsJob, tmp_path: Path) -> Path:
    """The copy of an output on a volume, which the pod mounts where the tests have it."""
    url = uploaded(tmp_path, CONTENT)
    job.outputs = [{"path": "/snapshots/model", "url": url}]
    job.status = ended(state(job.outputs[0], "Uploaded", files=3, bytes=7005))
    return tmp_path / "copy"


def test_the_table(job: OutputsJob) -> None:
    shown = run()
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert [line.split() for line in shown.stdout.splitlines()[:3]] == [
        ["PATH", "URL", "WHEN", "STATE", "FILES", "SIZE", "MESSAGE"],
        ["/snapshots/model", "s3://results/model", "Success", "Uploaded", "3", "6.8", "KiB", "-"],
        ["/snapshots/logs", "s3://results/logs", "Periodic", "60s", "Uploaded", "1", "2.0", "MiB", "-"],
    ]
    assert run("-o", "name").stdout == "s3://results/model\ns3://results/logs\n"
    assert run("-o", "yaml").exit_code == 0
    assert json.loads(run("-o", "json").stdout) == {
        "job": "digits",
        "namespace": "ml",
        "condition": condition("True", "Uploaded"),
        "interrupted": 0,
        "retryTime": None,
        "outputs": [
            {**MODEL, "when": "Success", "state": "Uploaded", "files": 3, "bytes": 7005},
            {**LOGS, "state": "Uploaded", "files": 1, "bytes": 2097152},
        ],
    }
    job.outputs = []
    assert run().stderr.startswith("error: digits has no outputs: write spec.outputs with the path and the url")


def test_an_upload_in_trouble(job: OutputsJob) -> None:
    job.status = ended(FAILED, state(LOGS, "Uploading"), interrupted=2, retryTime="2026-01-31T12:00:12Z")
    assert [line.rstrip() for line in output_table(job.job, NOW)][1:] == [
        "/snapshots/model   s3://results/model   Success        Failed      -       -      " + REFUSED,
        "/snapshots/logs    s3://results/logs    Periodic 60s   Uploading   -       -      -",
        "",
        "UploadFailed for 5m: s3://results/model refuses access",
        "The upload was interrupted 2 times; the next attempt starts in 12s.",
    ]


def test_a_retry_that_is_waited_for_does_not_count_the_upload_before(job: OutputsJob) -> None:
    job.status = ended(FAILED)
    job.after_retry = [
        ended(FAILED),
        ended(state(MODEL, "Uploading"), digest="2"),
        ended(UPLOADED, digest="2"),
    ]
    done = run("--retry", "--wait")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "torchrunjob.torchrun.dev/digits uploads its outputs again",
        "torchrunjob.torchrun.dev/digits outputs uploaded",
    ]
    alone = run("--wait", "-o", "name")
    assert (alone.stdout, alone.stderr) == (
        "s3://results/model\ns3://results/logs\n",
        "torchrunjob.torchrun.dev/digits outputs uploaded\n",
    )
    assert [[*patch["metadata"]["annotations"]] for patch in job.patches] == [["torchrun.dev/retry-outputs"]]


def test_a_retry_that_fails_says_why(job: OutputsJob) -> None:
    job.status = ended(FAILED)
    job.after_retry = [ended(FAILED, digest="2")]
    done = run("--retry", "--wait")
    assert done.exit_code == 1
    assert done.stderr == (
        "error: digits ended without the upload of the outputs: UploadFailed: s3://results/model refuses access\n"
    )


@pytest.mark.parametrize(
    ("args", "words", "code", "error"),
    [
        (
            ["--retry"],
            ("Waiting", "Waiting"),
            4,
            "no output of digits was uploaded yet, so there is nothing to retry: ",
        ),
        (["--download", "x"], ("Waiting", "Waiting"), 1, "no output of digits is uploaded"),
        (["--download", "x"], ("Skipped", "Skipped"), 1, "no output of digits is uploaded"),
        (["--timeout", "5m"], ("Uploaded", "Uploaded"), 2, "--timeout needs --wait"),
    ],
)
def test_what_cannot_be_done(job: OutputsJob, args: list[str], words: tuple[str, str], code: int, error: str) -> None:
    job.status = ended(state(MODEL, words[0]), state(LOGS, words[1]))
    done = run(*args)
    assert (done.exit_code, job.patches, job.created) == (code, [], [])
    assert f"error: {error}" in done.stderr


def test_a_download_through_a_pod(job: OutputsJob, volume: Path, tmp_path: Path) -> None:
    target = tmp_path / "here"
    done = run("--download", str(target))
    assert (done.exit_code, done.stdout) == (0, f"file://{volume}: 3 files, 6.8 KiB in {target}/model\n"), done.stderr
    assert read_tree(target / "model") == CONTENT
    assert done.stderr.splitlines()[:2] == [
        f"file://{volume}: read through a pod, because it is a volume of the cluster",
        "pod/digits-download-0 created",
    ]
    assert (job.pods, done.stderr.splitlines()[-1]) == ({}, "pod/digits-download-0 deleted")
    again = run("--download", str(target))
    assert again.stdout == f"file://{volume}: 3 files, 6.8 KiB in {target}/model, 3 of them were there\n"


def test_the_pod_of_a_download(job: OutputsJob, tmp_path: Path) -> None:
    run("--download", str(tmp_path / "here"), "--via", "pod")
    [pod] = job.created
    assert pod["metadata"]["labels"] == {"sidecar.istio.io/inject": "false", "torchrun.dev/role": "outputs"}
    assert pod["metadata"]["ownerReferences"] == [
        {"apiVersion": "torchrun.dev/v1alpha1", "kind": "TorchrunJob", "name": "digits", "uid": "u"}
    ]
    first, second = pod["spec"]["containers"]
    assert (first["name"], second["name"]) == ("output-0", "output-1")
    assert (first["envFrom"], "envFrom" in second) == ([{"secretRef": {"name": "s3"}}], False)
    assert (first["image"], first["command"]) == ("training", ["python3", "-c", "import time; time.sleep(3600)"])
    assert [mount["mountPath"] for mount in first["volumeMounts"]] == ["/torchrun-operator"]
    assert pod["spec"]["activeDeadlineSeconds"] == 3600


def test_a_claim_is_mounted_read_only(job: OutputsJob, tmp_path: Path) -> None:
    job.outputs = [{"path": "/snapshots/model", "url": "pvc://results/model"}]
    job.status = ended(state(job.outputs[0], "Uploaded"))
    run("--download", str(tmp_path / "here"))
    spec = job.created[0]["spec"]
    assert spec["volumes"][1:] == [
        {"name": "torchrun-output-0-target", "persistentVolumeClaim": {"claimName": "results"}}
    ]
    assert [mount.get("readOnly") for mount in spec["containers"][0]["volumeMounts"]] == [True, True]


def test_broken_connections_and_a_lost_pod(job: OutputsJob, volume: Path, tmp_path: Path) -> None:
    del volume
    job.break_streams(2)
    job.lose = 1
    done = run("--download", str(tmp_path / "here"))
    assert (done.exit_code, read_tree(tmp_path / "here/model")) == (0, CONTENT), done.stderr
    assert (len(job.created), job.pods) == (2, {})
    assert "the connection to the pod broke" in done.stderr or "does not answer as expected" in done.stderr


def test_all_legal_names(job: OutputsJob, tmp_path: Path) -> None:
    content = {name: name.encode() for name in LEGAL_NAMES}
    job.outputs = [{"path": "/snapshots/model", "url": uploaded(tmp_path, content)}]
    job.status = ended(state(job.outputs[0], "Uploaded"))
    done = run("--download", str(tmp_path / "here"))
    assert (done.exit_code, read_tree(tmp_path / "here/model")) == (0, content), done.stderr


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../outside", "a//b", "./a", "a\0b"])
def test_a_manifest_that_leads_outside(job: OutputsJob, volume: Path, tmp_path: Path, path: str) -> None:
    del job
    entries = {path: Entry(1, hashlib.sha256(b"x").hexdigest(), 0, ""), "fine": Entry(1, "0", 0, "")}
    (volume / MANIFEST).write_bytes(written(Manifest(entries), ""))
    (volume.parent / "outside").write_bytes(b"x")
    before = {file for file in tmp_path.rglob("*") if "kubectl" not in file.parts}
    done = run("--download", str(tmp_path / "here"))
    assert done.exit_code == 1
    assert "which is no path below it" in done.stderr
    assert {file for file in tmp_path.rglob("*") if "kubectl" not in file.parts} == before


def test_a_wrong_copy_gets_no_name(job: OutputsJob, volume: Path, tmp_path: Path) -> None:
    del job
    (volume / "model.pt").write_bytes(b"weightz" * 1000)
    done = run("--download", str(tmp_path / "here"))
    assert done.exit_code == 1
    assert "model.pt is not as its manifest says" in done.stderr
    assert "error: 1 of 1 outputs are not complete: run the command again to go on\n" in done.stderr
    assert read_tree(tmp_path / "here/model") == {"deep/er/log.txt": b"line\n", "empty": b""}


def test_an_interrupted_download_goes_on(job: OutputsJob, volume: Path, tmp_path: Path) -> None:
    del job
    whole = CONTENT["model.pt"]
    parts = tmp_path / "here/model" / PARTS
    parts.mkdir(parents=True)
    (parts / hashlib.sha256(whole).hexdigest()).write_bytes(whole[:3000])
    with (volume / "model.pt").open("r+b") as copy:  # so it is seen if these bytes are read again
        copy.write(b"?" * 3000)
    done = run("--download", str(tmp_path / "here"))
    assert (done.exit_code, read_tree(tmp_path / "here/model")) == (0, CONTENT), done.stderr


def test_no_manifest_yet(job: OutputsJob, volume: Path, tmp_path: Path) -> None:
    del job
    (volume / MANIFEST).unlink()
    done = run("--download", str(tmp_path / "here"))
    assert done.exit_code == 1
    assert "has no manifest: no upload is complete there now" in done.stderr
    assert "to copy it by hand: " in done.stderr


def test_a_user_without_the_right_to_create_pods(job: OutputsJob, tmp_path: Path) -> None:
    job.forbidden = True
    done = run("--download", str(tmp_path / "here"), "--via", "pod")
    copied = f"to copy it by hand: aws s3 cp --recursive s3://results/model/ {tmp_path}/here/model"
    assert done.exit_code == 4
    assert done.stderr.splitlines()[-1] == f'error: pods is forbidden: User "me" cannot create; {copied}'


def test_a_pod_that_does_not_start(job: OutputsJob, tmp_path: Path) -> None:
    job.ready = False
    done = run("--download", str(tmp_path / "here"), "--via", "pod")
    assert done.exit_code == 1
    assert "pod digits-download-0 did not start: ErrImagePull no such image" in done.stderr
    assert job.pods == {}


class LocalStore:
    """What this computer sees at the URL."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, path: str) -> bytes | None:
        file = self._root / path
        return file.read_bytes() if file.exists() else None

    def read(self, path: str, start: int, end: int) -> bytes:
        return (self._root / path).read_bytes()[start:end]


@pytest.mark.parametrize(
    ("owner", "via", "pods", "words"),
    [
        ({}, "auto", 0, "read from this computer"),
        ({}, "local", 0, "read from this computer"),
        ({"name": "other"}, "auto", 1, "because the manifest at that url as seen from here is of another job"),
        ({"name": "other"}, "local", 0, "cannot be read from this computer: the manifest at that url"),
    ],
)
def test_the_way_of_a_download(
    job: OutputsJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: dict[str, str],
    via: str,
    pods: int,
    words: str,
) -> None:
    uploaded(tmp_path, CONTENT, **owner)
    monkeypatch.setattr("torchrun_transfer.stores.locate.store_of", lambda _: LocalStore(tmp_path / "copy"))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    job.outputs = [MODEL]
    job.status = ended(UPLOADED)
    done = run("--download", str(tmp_path / "here"), "--via", via)
    assert (len(job.created), words in done.stderr) == (pods, True), done.stderr
    if not owner:
        assert read_tree(tmp_path / "here/model") == CONTENT


@pytest.mark.parametrize(
    ("size", "words"),
    [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 30, "5.0 GiB"), (1 << 60, "1048576.0 TiB")],
)
def test_sizes(size: int | None, words: str) -> None:
    assert size_words(size) == words


def test_directories_have_names_of_their_own() -> None:
    paths = ["/snapshots/model", "/data/model", "/snapshots/logs/"]
    assert directory_names([{"path": path} for path in paths]) == ["model-0", "model-1", "logs"]
