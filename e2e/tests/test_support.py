"""The helpers of the cluster tests and the demo."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from demo.results import Results
from demo.story import adapted
from support import watching
from support.chart import image_values
from support.clusters import ROOT, UnusableError, own_cluster
from support.lines import whole
from support.podlogs import PodLogs
from support.progress import Line, Step, parse, step_of
from support.waiting import NotInTimeError, wait_for

_START = Line("digits-0", "u", 10.5, {"event": "start", "at": "50", "world": "3"})


@pytest.mark.parametrize(
    ("log", "lines"),
    [
        (
            "rank=1 node=0 loss=0.5rank=0 node=0 loss=0.25\n\n",
            ["rank=1 node=0 loss=0.5", "rank=0 node=0 loss=0.25", ""],
        ),
        ("rank=0 loss=0.5accuracy=0.9722\n\n", ["rank=0 loss=0.5", "accuracy=0.9722", ""]),
        (
            "accuracy=0.9722rank=1 loss=0.5\nerror=0.1node=1\n",
            ["accuracy=0.9722", "rank=1 loss=0.5", "error=0.1", "node=1"],
        ),
        ("a rank=1 node_rank=2\n", ["a rank=1 node_rank=2"]),
    ],
)
def test_lines_of_several_workers_are_told_apart(log: str, lines: list[str]) -> None:
    assert whole(log).splitlines() == lines


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("time=10.500 event=start at=50 world=3", Line("", "", 10.5, {"event": "start", "at": "50", "world": "3"})),
        ("time=11 step=51/600 world=3", Line("", "", 11.0, {"step": "51/600", "world": "3"})),
        ("accuracy=0.9722", None),
        ("time=soon step=1", None),
        ("time=11 and now for something", None),
        ("", None),
    ],
)
def test_lines_of_the_trainer_library_are_told_from_others(text: str, line: Line | None) -> None:
    assert parse(text) == line


def test_a_step_knows_the_start_of_its_workers() -> None:
    line = parse("time=12.25 step=60/600 epoch=3 loss=0.25 samples/s=900.0 world=3 snapshot=50", "digits-0", "u")
    assert line is not None
    assert step_of(line, _START) == Step(
        time=12.25,
        step=60,
        total=600,
        world=3,
        loss=0.25,
        snapshot=50,
        started_at=10.5,
        started_from=50,
        pod="digits-0",
    )
    assert step_of(line, None) is None
    assert step_of(_START, _START) is None


@pytest.mark.parametrize(
    ("image", "values"),
    [
        ("torchrun-operator:dev", ("torchrun-operator", "dev")),
        ("registry:5000/team/torchrun-operator:0.1.0", ("registry:5000/team/torchrun-operator", "0.1.0")),
        ("registry/operator:1@sha256:abc", ("registry/operator", "1@sha256:abc")),
    ],
)
def test_an_image_is_split_for_the_chart(image: str, values: tuple[str, str]) -> None:
    assert image_values(image) == values


@pytest.mark.parametrize("image", ["torchrun-operator", "registry:5000/operator", "operator@sha256:abc", ":dev"])
def test_an_image_without_a_tag_is_refused(image: str) -> None:
    with pytest.raises(UnusableError, match="write an image with a tag"):
        image_values(image)


def test_a_cluster_of_ones_own_needs_images(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text("{}")
    with pytest.raises(UnusableError, match="DEMO_OPERATOR_IMAGE and DEMO_TRAINER_IMAGE must be too"):
        own_cluster({"KUBECONFIG": str(kubeconfig)}, "DEMO")
    with pytest.raises(UnusableError, match="which is not a file"):
        own_cluster({"KUBECONFIG": str(tmp_path / "absent")}, "DEMO")
    assert own_cluster({}, "DEMO") is None


def test_waiting_tells_what_was_seen_last() -> None:
    assert wait_for("three", iter([0, None, 3]).__next__, 5) == 3
    with pytest.raises(NotInTimeError, match="not within 0 s: rain; last seen: sun"):
        wait_for("rain", lambda: False, 0, seen=lambda: "sun")


class _WatchedKubectl:
    """Shows an object in each of these states to a watch, and in the last one to whoever asks."""

    def __init__(self, watched: list[str], asked: str | None) -> None:
        self.watched, self.asked, self.events = watched, asked, list[str]()

    def watch_one(self, _kind: str, _name: str, on_object: Any) -> "_WatchedKubectl":
        for state in self.watched:
            on_object({"status": {"state": state}})
        return self

    def get(self, _kind: str, _name: str) -> dict[str, Any] | None:
        self.events.append("asked")
        return None if self.asked is None else {"status": {"state": self.asked}}

    def stop(self) -> None:
        self.events.append("stopped")


@pytest.mark.parametrize(
    ("watched", "asked", "events"),
    [
        (["Complete"], None, ["stopped"]),
        (["Pending", "Complete"], None, ["stopped"]),
        (["Pending"], "Complete", ["asked", "stopped"]),
        ([], "Complete", ["asked", "stopped"]),
    ],
    ids=["at once", "a change", "the watch has ended", "no watch"],
)
def test_an_object_is_watched_and_asked_for_if_nothing_comes(
    watched: list[str], asked: str | None, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_AGAIN_SECONDS", 0.01)
    fake: Any = _WatchedKubectl(watched, asked)

    def complete(found: Any) -> bool:
        return bool(found["status"]["state"] == "Complete")

    assert watching.wait_object(fake, "job", "a", "its end", complete, 60) == {"status": {"state": "Complete"}}
    assert fake.events == events


def test_an_object_that_never_matches_or_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_AGAIN_SECONDS", 0.01)
    fake: Any = _WatchedKubectl(["Pending"], "Running")
    with pytest.raises(NotInTimeError, match=r"not within 0 s: a: its end; last seen: {'state': 'Running'}"):
        watching.wait_object(fake, "job", "a", "its end", lambda _: False, 0.05)
    assert fake.events[-1] == "stopped"
    gone: Any = _WatchedKubectl([], None)
    with pytest.raises(AssertionError, match="job a is gone"):
        watching.wait_object(gone, "job", "a", "its end", lambda _: True, 60)
    assert gone.events == ["asked", "stopped"]


@pytest.mark.parametrize(
    ("results", "failures"),
    [
        (Results(accuracy=0.97, resumed_from=[0, 100, 160]), []),
        (Results(accuracy=0.97, resumed_from=[0, 100, 160], recovery_seconds=60), []),
        (Results(accuracy=0.97, resumed_from=[0, 0]), ["training restarted from step 0 (starts: [0, 0])"]),
        (Results(accuracy=0.5, resumed_from=[0]), ["the final accuracy is 0.5, less than 0.95"]),
        (Results(resumed_from=[0]), ["the final accuracy is None, less than 0.95"]),
        (
            Results(accuracy=0.97, restarts={"code": 1}),
            ["1 restarts counted as code, which did not fail"],
        ),
    ],
)
def test_what_fails_the_demo(results: Results, failures: list[str]) -> None:
    assert results.failures() == failures


def test_a_slow_recovery_is_marked_but_no_failure() -> None:
    results = Results(accuracy=0.97, resumed_from=[0, 100], recovery_seconds=12.0)
    assert "bar 10 s: missed" in results.table()
    assert "bar 10 s: ok" in Results(accuracy=0.97, resumed_from=[0, 100], recovery_seconds=6.0).table()


def test_the_examples_manifests_hold_their_scripts() -> None:
    subprocess.run([sys.executable, ROOT / "e2e/examples/inline.py", "--check"], check=True)


def test_the_demo_knows_its_example() -> None:
    manifest = (ROOT / "e2e" / "examples" / "digits" / "torchrunjob.yaml").read_text()
    assert "image: registry/trainer:1\n" in adapted(manifest, "registry/trainer:1")


class _FakeKubectl:
    """Calls back for watches, and records what is followed."""

    def __init__(self) -> None:
        self.followed: list[tuple[str, str]] = []
        self.on_pod: Any = None
        self.on_line: Any = None

    def watch(self, _kind: str, _selector: str, on_object: Any) -> "_FakeKubectl":
        self.on_pod = on_object
        return self

    def follow(self, pod: str, container: str, on_line: Any) -> "_FakeKubectl":
        self.followed.append((pod, container))
        self.on_line = on_line
        return self


def test_logs_are_followed_through_restarts_in_place() -> None:
    def pod(state: str, restarts: int, container: str = "trainer") -> dict[str, Any]:
        statuses = [{"name": container, "restartCount": restarts, "state": {state: {}}}]
        return {"metadata": {"name": "job-0", "uid": "u"}, "status": {"containerStatuses": statuses}}

    fake: Any = _FakeKubectl()
    lines: list[tuple[str, str, str]] = []
    PodLogs(fake, "job=a", "trainer", lambda *line: lines.append(line))
    counts = []
    for seen in (
        {"metadata": {"name": "job-0", "uid": "u"}, "status": {}},
        pod("waiting", 0),
        pod("running", 0, container="sidecar"),
        pod("running", 0),
        pod("running", 0),
        pod("terminated", 0),
        pod("waiting", 1),
        pod("running", 1),
    ):
        fake.on_pod(seen)
        counts.append(len(fake.followed))
    assert counts == [0, 0, 0, 1, 1, 1, 1, 2]
    assert set(fake.followed) == {("job-0", "trainer")}
    fake.on_line("hello")
    assert lines == [("job-0", "u", "hello")]
