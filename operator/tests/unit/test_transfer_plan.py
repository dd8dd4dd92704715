"""What the transfer program sends, keeps and gives up: tables of decisions."""

import json

import pytest

from torchrun_transfer import manifest
from torchrun_transfer.backoff import Failures
from torchrun_transfer.manifest import Entry, Manifest
from torchrun_transfer.patterns import chosen, matches
from torchrun_transfer.plan import Local, Plan, Remote, plan
from torchrun_transfer.task import Task, task_of
from torchrun_transfer.troubles import ChangedError, TransferError, is_fatal, words

A, B = Entry(3, "aa", 10, "v1"), Entry(5, "bb", 20, "v1")
LOCAL = {"a": Local(3, 10), "b": Local(5, 20)}
REMOTE = {"a": Remote(3, "v1"), "b": Remote(5, "v1")}


@pytest.mark.parametrize(
    ("local", "remote", "listed", "journal", "expected"),
    [
        pytest.param(LOCAL, {}, None, None, Plan(("a", "b"), {}, False, False), id="all are new"),
        pytest.param({}, {}, None, None, Plan((), {}, False, False), id="nothing to send, but a manifest to write"),
        pytest.param({}, {}, {}, None, Plan((), {}, False, True), id="nothing, and the manifest says so"),
        pytest.param(
            LOCAL, {"a": REMOTE["a"]}, None, {"a": A}, Plan(("b",), {"a": A}, False, False), id="after a crash"
        ),
        pytest.param(LOCAL, REMOTE, None, {"a": A, "b": B}, Plan((), {"a": A, "b": B}, False, False), id="all sent"),
        pytest.param(LOCAL, REMOTE, {"a": A, "b": B}, None, Plan((), {"a": A, "b": B}, False, True), id="done"),
        pytest.param(
            {**LOCAL, "b": Local(6, 30)}, REMOTE, {"a": A, "b": B}, None, Plan(("b",), {"a": A}, True, False),
            id="a listed file has changed",
        ),
        pytest.param(
            {**LOCAL, "c": Local(1, 1)}, REMOTE, {"a": A, "b": B}, None,
            Plan(("c",), {"a": A, "b": B}, False, False), id="a new file leaves the manifest right",
        ),
        pytest.param(
            {"a": LOCAL["a"]}, REMOTE, {"a": A, "b": B}, None, Plan((), {"a": A}, False, False),
            id="a file was removed here: the manifest no longer lists it, and the copy stays",
        ),
        pytest.param(
            LOCAL, {"a": REMOTE["a"]}, {"a": A, "b": B}, None, Plan(("b",), {"a": A}, True, False),
            id="a copy was removed there",
        ),
        pytest.param(
            LOCAL, {**REMOTE, "a": Remote(3, "v2")}, {"a": A, "b": B}, None, Plan(("a",), {"b": B}, True, False),
            id="another writer has replaced a copy",
        ),
        pytest.param(
            LOCAL, {**REMOTE, "a": Remote(2, "v1")}, None, {"a": A, "b": B}, Plan(("a",), {"b": B}, False, False),
            id="a copy is cut short",
        ),
        pytest.param(
            {"a": Local(3, 11)}, {"a": Remote(3, "v2")}, {"a": A}, {"a": Entry(3, "cc", 11, "v2")},
            Plan((), {"a": Entry(3, "cc", 11, "v2")}, False, False), id="the journal is newer than the manifest",
        ),
    ],
)  # fmt: skip
def test_plan(
    local: dict[str, Local],
    remote: dict[str, Remote],
    listed: dict[str, Entry] | None,
    journal: dict[str, Entry] | None,
    expected: Plan,
) -> None:
    manifests = [Manifest(files) if files is not None else None for files in (listed, journal)]
    assert plan(local, remote, *manifests) == expected


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.pt", ["a.pt", "x/y/b.pt", ".pt"], ["a.pt.tmp", "pt"]),
        ("*.tmp", ["a.tmp/b"], ["a.tmpx"]),
        ("logs", ["logs/a", "x/logs/b", "logs"], ["mylogs/a", "logs2"]),
        ("logs/", ["logs/a", "x/logs/b"], ["logs"]),
        ("runs/*", ["runs/a", "runs/a/b"], ["a/runs/b"]),
        ("runs/*/model.pt", ["runs/1/model.pt"], ["runs/model.pt", "runs/1/2/model.pt"]),
        ("**/model.pt", ["model.pt", "a/b/model.pt"], ["a/model.pt.1"]),
        ("runs/**/model.pt", ["runs/model.pt", "runs/a/b/model.pt"], ["model.pt"]),
        ("runs/**", ["runs/a/b"], ["run/a"]),
        ("step-?.pt", ["step-1.pt"], ["step-10.pt", "step-.pt"]),
        ("step-[0-4].pt", ["step-3.pt"], ["step-5.pt"]),
        ("step-[!0-4].pt", ["step-5.pt"], ["step-3.pt"]),
        ("a[b", ["a[b"], ["ab"]),
        ("a+(b).pt", ["a+(b).pt"], ["aa(b).pt"]),
        ("ü*", ["übung\nzwei"], ["u"]),
        ("/model.pt", ["model.pt"], ["a/model.pt"]),
    ],
)
def test_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    assert [path for path in [*yes, *no] if matches(path, pattern)] == yes


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ((), (), ["a.pt", "logs/b.log", "c.tmp"]),
        (("*.pt", "*.log"), (), ["a.pt", "logs/b.log"]),
        ((), ("*.tmp",), ["a.pt", "logs/b.log"]),
        (("logs",), ("*.log",), []),
    ],
)
def test_exclude_wins(include: tuple[str, ...], exclude: tuple[str, ...], expected: list[str]) -> None:
    assert [path for path in ("a.pt", "logs/b.log", "c.tmp") if chosen(path, include, exclude)] == expected


def test_a_manifest_as_written() -> None:
    content = manifest.written(Manifest({"b": B, "ä\n": A}, {"name": "digits"}), "2026-01-31T12:00:00Z")
    assert json.loads(content) == {
        "format": "torchrun-manifest-1",
        "time": "2026-01-31T12:00:00Z",
        "job": {"name": "digits"},
        "files": [
            {"path": "b", "size": 5, "sha256": "bb", "modified": 20, "tag": "v1"},
            {"path": "ä\n", "size": 3, "sha256": "aa", "modified": 10, "tag": "v1"},
        ],
    }
    assert manifest.read(content) == Manifest({"b": B, "ä\n": A}, {"name": "digits"})


@pytest.mark.parametrize(
    "content",
    [None, b"", b"{", b"[]", b"null", b'{"format": "other"}', b'{"format": "torchrun-manifest-1"}', b"\xff"],
)
def test_what_is_no_manifest_says_nothing(content: bytes | None) -> None:
    assert manifest.read(content) is None


@pytest.mark.parametrize(
    ("failures", "now", "fatal", "expected"),
    [
        (Failures(1, 0.0), 0.0, False, 1.0),
        (Failures(4, 0.0), 7.0, False, 8.0),
        (Failures(20, 0.0), 600.0, False, 60.0),
        (Failures(20, 0.0), 841.0, False, None),
        (Failures(2, 0.0), 1.0, True, 2.0),
        (Failures(3, 0.0), 3.0, True, None),
    ],
)
def test_waits(failures: Failures, now: float, fatal: bool, expected: float | None) -> None:
    assert failures.wait_seconds(now, 900.0, fatal=fatal) == expected


def test_failures_count_from_the_first() -> None:
    assert Failures().one_more(5.0).one_more(9.0) == Failures(2, 5.0)


class NoCredentialsError(Exception):
    """As botocore's."""


@pytest.mark.parametrize(
    ("error", "fatal", "expected"),
    [
        (TransferError("stop"), True, "stop"),
        (ChangedError("a changed"), False, "a changed"),
        (
            PermissionError("Forbidden"), True,
            "s3://b refuses access: Forbidden; check secretRef, or the rights of the pod's service account",
        ),
        (
            NoCredentialsError("Unable to locate credentials"), True,
            ("s3://b refuses access: Unable to locate credentials; check secretRef, or the rights of the pod's service "
             "account"),
        ),
        (
            FileNotFoundError("The specified bucket does not exist"), True,
            ("s3://b does not exist: The specified bucket does not exist; create the bucket or directory, or correct "
             "the url"),
        ),
        (
            ImportError("Install s3fs to access S3"), True,
            ("s3://b needs a Python package that the image lacks (Install s3fs to access S3); set spec.transfer.image "
             "to an image with it, or build the training image with EXTRAS=s3"),
        ),
        (
            OSError(5, "An error occurred (InvalidAccessKeyId) when calling the ListObjectsV2 operation: no such key"),
            True,
            ("s3://b refuses access: [Errno 5] An error occurred (InvalidAccessKeyId) when calling the ListObjectsV2 "
             "operation: no such key; check secretRef, or the rights of the pod's service account"),
        ),
        (OSError(5, "An error occurred (SlowDown) when calling the PutObject operation: wait"), False,
         "s3://b: OSError: [Errno 5] An error occurred (SlowDown) when calling the PutObject operation: wait"),
        (OSError(28, "No space left"), False, "no space is left at s3://b: [Errno 28] No space left"),
        (ConnectionResetError(), False, "s3://b: ConnectionResetError: ConnectionResetError"),
    ],
)  # fmt: skip
def test_words(error: Exception, fatal: bool, expected: str) -> None:
    assert (is_fatal(error), words(error, "s3://b")) == (fatal, expected)


def test_a_task() -> None:
    raw = {
        "url": "s3://b/x", "path": "/out", "include": ["*.pt"], "exclude": ["*.tmp"], "everySeconds": 30,
        "patienceSeconds": 60, "job": {"name": "digits"}, "pod": "digits-outputs",
    }  # fmt: skip
    expected = Task("s3://b/x", "/out", ("*.pt",), ("*.tmp",), 30.0, 60.0, {"name": "digits"}, "digits-outputs")
    assert task_of(json.dumps(raw)) == expected
    assert task_of('{"url": "file:///x", "path": "/y"}') == Task("file:///x", "/y", job={})


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"url": "s3://b"}', '{"url": "", "path": "", "job": 1}'])
def test_no_task(text: str) -> None:
    with pytest.raises(ValueError, match="TORCHRUN_TRANSFER is no task of this program"):
        task_of(text)
