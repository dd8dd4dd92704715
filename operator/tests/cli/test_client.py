"""The client of the API server: requests, pages, errors, retries, and the feed of changes."""

from collections.abc import Callable
from typing import Any

import pytest

from cli_cluster import Reply, refused, said, scripted, stream
from torchrun_cli.cluster.client import Client
from torchrun_cli.cluster.events import concerns
from torchrun_cli.cluster.follow import Feed, lines
from torchrun_cli.cluster.resources import EVENTS, JOBS, PODS
from torchrun_cli.cluster.transport import UnreachableError
from torchrun_cli.errors import CliError

JOB = "/apis/torchrun.dev/v1alpha1/namespaces/ml/torchrunjobs"


@pytest.mark.parametrize(
    ("call", "request_", "kind"),
    [
        (lambda c: c.get(JOBS, "digits"), ("GET", f"{JOB}/digits", None), ""),
        (lambda c: c.get(PODS, "a/b", "x y"), ("GET", "/api/v1/namespaces/x%20y/pods/a%2Fb", None), ""),
        (
            lambda c: c.create(JOBS, {"metadata": {"name": "a"}}),
            ("POST", f"{JOB}?fieldManager=kubectl-torchrun&fieldValidation=Strict", {"metadata": {"name": "a"}}),
            "application/json",
        ),
        (
            lambda c: c.create(JOBS, {"metadata": {"namespace": "other"}}, dry_run=True),
            (
                "POST",
                f"{JOB.replace('/ml/', '/other/')}?fieldManager=kubectl-torchrun&dryRun=All&fieldValidation=Strict",
                {"metadata": {"namespace": "other"}},
            ),
            "application/json",
        ),
        (
            lambda c: c.apply(JOBS, {"metadata": {"name": "a"}}, force=True),
            (
                "PATCH",
                f"{JOB}/a?fieldManager=kubectl-torchrun&force=true&fieldValidation=Strict",
                {"metadata": {"name": "a"}},
            ),
            "application/apply-patch+yaml",
        ),
        (
            lambda c: c.patch(JOBS, "a", {"spec": {"suspend": True}}),
            ("PATCH", f"{JOB}/a?fieldManager=kubectl-torchrun", {"spec": {"suspend": True}}),
            "application/merge-patch+json",
        ),
        (
            lambda c: c.delete(PODS, "a", uid="u", grace=0),
            (
                "DELETE",
                "/api/v1/namespaces/ml/pods/a",
                {
                    "apiVersion": "v1",
                    "kind": "DeleteOptions",
                    "propagationPolicy": "Background",
                    "preconditions": {"uid": "u"},
                    "gracePeriodSeconds": 0,
                },
            ),
            "application/json",
        ),
    ],
)
def test_requests(call: Callable[[Client], Any], request_: tuple[str, str, Any], kind: str) -> None:
    client, script = scripted(said({"metadata": {}}))
    call(client)
    assert (script.requests, script.kinds) == ([request_], [kind])


def test_lists_come_in_pages() -> None:
    client, script = scripted(
        said({"metadata": {"continue": "next"}, "items": [{"metadata": {"name": "a"}}]}),
        said({"metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "b"}}]}),
    )
    named = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}} for name in "ab"]
    assert client.list(PODS, None, labels="x=y") == (named, "7")
    assert [path for _, path, _ in script.requests] == [
        "/api/v1/pods?limit=500&labelSelector=x%3Dy",
        "/api/v1/pods?limit=500&labelSelector=x%3Dy&continue=next",
    ]


ABSENT = "the server could not find the requested resource"
ABSENT_KIND = "the cluster has no torchrunjobs, so install torchrun-operator, or choose another --context"


@pytest.mark.parametrize(
    ("reply", "code", "message"),
    [
        (refused(404, "NotFound", 'torchrunjobs "a" not found'), 3, 'torchrunjobs "a" not found'),
        (
            refused(404, "NotFound", ABSENT),
            3,
            f"{ABSENT}: {ABSENT_KIND}",
        ),
        (
            Reply(404, [b"404 page not found\n"]),
            3,
            f"404 page not found: {ABSENT_KIND}",
        ),
        (refused(403, "Forbidden", "jane cannot get"), 4, "jane cannot get"),
        (refused(409, "Conflict", "changed"), 4, "changed"),
        (refused(422, "Invalid", "spec.nnodes: wrong"), 4, "spec.nnodes: wrong"),
        (
            refused(401, "Unauthorized", "Unauthorized"),
            1,
            "the API server does not know you (Unauthorized): log in to the cluster again",
        ),
        (Reply(502, [b"<html>bad gateway</html>"]), 1, "HTTP status 502"),
        (Reply(503, [b"no backend\n"]), 1, "no backend"),
        (
            Reply(200, [b"<html>log in"]),
            1,
            "https://api.example.com:6443 does not answer as an API server does: check the kubeconfig",
        ),
        (UnreachableError("cannot reach it"), 1, "cannot reach it"),
    ],
)
def test_errors(reply: Reply | Exception, code: int, message: str) -> None:
    client, _ = scripted(reply)
    with pytest.raises(CliError) as caught:
        client.get(JOBS, "a")
    assert (caught.value.message, caught.value.exit_code) == (message, code)
    assert isinstance(reply, Exception) or reply.closed


def test_a_missing_object_is_none_but_a_missing_resource_is_an_error() -> None:
    client, _ = scripted(refused(404, "NotFound", 'jobs "a" not found'), refused(404, "NotFound", ABSENT))
    assert client.find(JOBS, "a") is None
    with pytest.raises(CliError):
        client.find(JOBS, "server")


def test_a_busy_server_is_asked_again() -> None:
    busy = [refused(429, "TooManyRequests", "busy", Retry_After="1") for _ in range(6)]
    client, script = scripted(*busy[:2], said({"metadata": {}}))
    client.get(JOBS, "a")
    assert len(script.requests) == 3
    client, script = scripted(*busy)
    with pytest.raises(CliError, match="busy"):
        client.get(JOBS, "a")
    assert (len(script.requests), script.replies) == (6, [])


@pytest.mark.parametrize(("renewable", "asked"), [(True, 2), (False, 1)])
def test_credentials_are_renewed_once(renewable: bool, asked: int) -> None:
    client, script = scripted(*[refused(401, "Unauthorized", "Unauthorized")] * 3)
    script.renewable = renewable
    with pytest.raises(CliError, match="log in"):
        client.get(JOBS, "a")
    assert len(script.requests) == asked


def test_warnings_are_shown() -> None:
    heard: list[str] = []
    client, _ = scripted(said({"metadata": {}}, Warning='299 - "use \\"b\\"", 299 - "and c"'))
    client._warn = heard.append
    client.get(JOBS, "a")
    assert heard == ['use "b"', "and c"]


def pod(name: str, version: int, uid: str = "") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "uid": uid or name, "resourceVersion": str(version)},
    }


def listed(version: int, *items: dict[str, Any]) -> Reply:
    return said({"metadata": {"resourceVersion": str(version)}, "items": list(items)})


def event(kind: str, found: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "object": found}


def until_it_fails(feed: Feed) -> list[str]:
    found = []
    try:
        for change in feed.changes():
            metadata = change.object["metadata"]
            found.append(f"{'-' if change.deleted else ''}{metadata['name']}{metadata['resourceVersion']}")
    except CliError as error:
        found.append(error.message)
    return found


EXPIRED = event("ERROR", {"kind": "Status", "code": 410})


@pytest.mark.parametrize(
    ("replies", "changes", "versions"),
    [
        pytest.param(
            [listed(5, pod("a", 1)), stream(event("MODIFIED", pod("a", 6)), event("DELETED", pod("a", 7)))],
            ["a1", "a6", "-a7"],
            ["5", "7"],
            id="a list and its watch",
        ),
        pytest.param(
            [listed(5), stream(event("BOOKMARK", pod("", 9))), stream(event("ADDED", pod("b", 10)))],
            ["b10"],
            ["5", "9", "10"],
            id="a bookmark moves the version",
        ),
        pytest.param(
            [listed(5), stream(event("ADDED", pod("a", 6)), breaks=True), UnreachableError("x"), stream()],
            ["a6"],
            ["5", "6", "6", "6"],
            id="a broken watch continues",
        ),
        pytest.param(
            [
                *(listed(5, pod("a", 1), pod("b", 2), pod("c", 3)), stream(EXPIRED)),
                *(listed(9, pod("b", 2), pod("c", 8)), stream()),
            ],
            ["a1", "b2", "c3", "-a1", "c8"],
            ["5", "9", "9"],
            id="a new list shows what changed meanwhile",
        ),
        pytest.param(
            [listed(5), refused(410, "Expired", "old"), listed(9, pod("a", 8)), stream()],
            ["a8"],
            ["5", "9", "9"],
            id="an expired version",
        ),
        pytest.param([listed(5), refused(500, "InternalError", "x"), stream()], [], ["5", "5", "5"], id="an error"),
    ],
)
def test_the_feed(replies: list[Reply | Exception], changes: list[str], versions: list[str]) -> None:
    """It ends with a refusal that does not pass by itself."""
    client, script = scripted(*replies, refused(403, "Forbidden", "no more"))
    assert until_it_fails(Feed(client, PODS, "ml", sleep=lambda _: None)) == [*changes, "no more"]
    watches = [path for _, path, _ in script.requests if "watch=1" in path]
    assert [path.partition("resourceVersion=")[2].partition("&")[0] for path in watches] == versions


def test_the_feed_ends_in_time() -> None:
    now = [0.0]

    def tick() -> float:
        now[0] += 1.0
        return now[0]

    client, script = scripted(listed(5, pod("a", 1)), stream(), stream(), stream())
    assert [change.object for change in Feed(client, PODS, "ml", until=5.0, clock=tick).changes()] == [pod("a", 1)]
    assert script.requests[1][1].endswith("&timeoutSeconds=3")


def test_the_first_list_is_not_tried_again() -> None:
    client, script = scripted(UnreachableError("cannot reach it"))
    with pytest.raises(UnreachableError):
        next(Feed(client, PODS, "ml").changes())
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([], []),
        ([b"a\nb"], [b"a", b"b"]),
        ([b"a", b"b\n", b"\n"], [b"ab", b""]),
        ([b"aaaaaaa\nb\n"], [b"aaaa", b"aaa", b"b"]),
        ([b"aaaaaa", b"aaa\n"], [b"aaaa", b"aaaa", b"a"]),
    ],
)
def test_lines_of_a_stream(chunks: list[bytes], expected: list[bytes]) -> None:
    assert list(lines(iter(chunks), 4)) == expected


@pytest.mark.parametrize(
    ("kind", "name", "all_of_it", "job_only"),
    [
        ("TorchrunJob", "digits", True, True),
        ("TorchrunJob", "digits-2", False, False),
        ("Pod", "digits-0", True, False),
        ("Pod", "digits-12-r2", True, False),
        ("Pod", "digits-rdzv", True, False),
        ("Pod", "digits-0-0", False, False),
        ("Pod", "digits-x", False, False),
        ("PersistentVolumeClaim", "digits-snapshots", True, False),
        ("PersistentVolumeClaim", "other", False, False),
        ("Job", "digits", False, False),
    ],
)
def test_events_that_concern_a_job(kind: str, name: str, all_of_it: bool, job_only: bool) -> None:
    found = {"involvedObject": {"kind": kind, "name": name}}
    assert (concerns(found, "digits"), concerns(found, "digits", job_only=True)) == (all_of_it, job_only)
    assert EVENTS.path() == "/api/v1/events"
