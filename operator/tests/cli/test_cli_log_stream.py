"""Logs of many pods in one stream: order, replaced pods, broken connections, ranks, and bounded memory."""

from collections.abc import Callable
from typing import Any

import pytest

from cli_cluster import refused
from cli_logs import LiveJob, broken
from torchrun_cli.cluster.loglines import LogLine, Place, Wish, open_log
from torchrun_cli.cluster.logs import Follower, history, node_pods, source_of
from torchrun_cli.errors import CliError
from torchrun_cli.show.loglines import Ranks, failed_pods, find_rank, pods_of_rank, prefixed
from torchrun_cli.show.pace import has_ended
from torchrun_cli.show.style import Paint

T = "2026-01-31T12:00:0"


def follower(live: LiveJob, notes: list[str], **fields: Any) -> Follower:
    wish = fields.pop("wish", Wish())
    wanted: Callable[..., bool] = fields.pop("wanted", lambda *_: True)
    return Follower(
        live.client(), live.name, "trainer", wish, wanted, has_ended, notes.append, pause=lambda _: None, **fields
    )


def read(found: Follower, count: int | None = None) -> list[str]:
    """Read so many lines, or all to the end of the job."""
    texts = []
    for entry in found.entries():
        texts.append(f"{entry.source.uid}: {entry.line.text.decode()}")
        if len(texts) == count:
            break
    return texts


@pytest.mark.parametrize(
    ("lines", "new"),
    [
        pytest.param(["1 a", "2 b"], "ab", id="in order"),
        pytest.param(["1 a", "2 b", "", "1 a", "2 b", "3 c"], "abc", id="again from the beginning"),
        pytest.param(["1 a", "2 b", "2 c", "", "2 b", "2 c", "2 d", "3 e"], "abcde", id="several of one time"),
        pytest.param(["1 a", "", "2 b", "2 c", "", "2 b", "2 c", "2 d"], "abcd", id="twice"),
        pytest.param(["1 a", "2 b", "", "3 c"], "abc", id="what came before is gone"),
    ],
)
def test_no_line_comes_twice(lines: list[str], new: str) -> None:
    place, found = Place(), ""
    for line in lines:
        if not line:
            place.reopened()
        elif place.is_new(LogLine(line[0], line[2:].encode())):
            found += line[2:]
    assert found == new


def test_the_place_is_a_whole_second() -> None:
    place = Place()
    assert place.since() == ""
    place.is_new(LogLine("2026-01-31T12:00:05.999999999", b""))
    assert place.since() == "2026-01-31T12:00:05Z"


def test_times_of_lines_compare_as_texts() -> None:
    live = LiveJob()
    live.set_pod(0, "a", "terminated")
    live.logs["a"] = [
        *("2026-01-31T12:00:00.5Z one", "2026-01-31T14:00:01.123456789+02:00 two", "2026-01-31T12:00:02Z"),
        *("no time", f"2026-01-31T12:00:03Z {'x' * 40000}"),
    ]
    with open_log(live.client(), source_of(live.pods["a"]), Wish()) as lines:
        found = [(line.time, line.text[:5], len(line.text)) for line in lines]
    assert found == [
        ("2026-01-31T12:00:00.500000000", b"one", 3),
        ("2026-01-31T12:00:01.123456789", b"two", 3),
        ("2026-01-31T12:00:02.000000000", b"", 0),
        ("2026-01-31T12:00:02.000000000", b"no ti", 7),
        ("2026-01-31T12:00:03.000000000", b"xxxxx", 32 * 1024 - 21),
        ("2026-01-31T12:00:03.000000000", b"xxxxx", 40021 - 32 * 1024),
    ]


def test_the_history_of_all_pods_is_in_the_order_of_time() -> None:
    live, notes = LiveJob(), list[str]()
    for index in range(3):
        live.set_pod(index, f"u{index}", "terminated")
    live.logs |= {"u0": [f"{T}0Z a", f"{T}3Z d"], "u1": [f"{T}1Z b", f"{T}2Z c"]}
    live.refusals = {"digits-2": refused(400, "BadRequest", "the container is waiting to start")}
    sources = [source_of(pod) for pod in node_pods(live.client(), "digits")]
    found = [(entry.source.pod, entry.line.text) for entry, _ in history(live.client(), sources, Wish(), notes.append)]
    assert found == [("digits-0", b"a"), ("digits-1", b"b"), ("digits-1", b"c"), ("digits-0", b"d")]
    assert notes == ["digits-2: the container is waiting to start"]


def test_following_goes_on_where_the_history_ends() -> None:
    live, notes = LiveJob(), list[str]()
    live.set_pod(0, "a")
    live.write("a", f"{T}0Z one", f"{T}1Z two")
    source = source_of(live.pods["a"])
    ((_, place),) = history(live.client(), [source], Wish(tail=1), notes.append)
    places = {source.uid: place}
    live.write("a", f"{T}1Z three")
    live.set_pod(1, "b")
    live.write("b", f"{T}1Z four")
    found = follower(live, notes, places=places, wish=Wish(tail=1))
    assert sorted(read(found, 2)) == ["a: three", "b: four"]
    assert [path for path in live.requests if "digits-0/log" in path] == [
        "/api/v1/namespaces/ml/pods/digits-0/log?container=trainer&timestamps=true&tailLines=1",
        "/api/v1/namespaces/ml/pods/digits-0/log?container=trainer&timestamps=true&follow=true&sinceTime=2026-01-31T12%3A00%3A01Z",
    ]


def test_following_ends_with_the_job_and_misses_nothing() -> None:
    live, notes = LiveJob(), list[str]()
    live.set_pod(0, "a")
    live.set_pod(1, "w", "waiting")
    found, texts = follower(live, notes), list[str]()
    live.write("a", f"{T}0Z one")
    for entry in found.entries():
        texts.append(f"{entry.source.pod} {entry.source.uid} {entry.line.text.decode()}")
        if texts[-1].endswith("one"):
            live.write("a", f"{T}1Z two")
            live.end_log("a", broken())
        elif texts[-1].endswith("two"):
            live.write("a", f"{T}1Z three")
        elif texts[-1].endswith("three"):
            live.delete_pod("a")
            live.set_pod(0, "b")
            live.write("b", f"{T}5Z four")
        elif texts[-1].endswith("four"):
            live.set_pod(0, "b", "terminated")
            live.write("b", f"{T}6Z five")
            live.end_job()
            live.end_log("b")
    assert texts == [
        *("digits-0 a one", "digits-0 a two", "digits-0 a three", "digits-0 b four", "digits-0 b five"),
    ]
    assert notes == ["digits-0: the connection to the API server broke: reset; trying again"]


def test_a_job_that_has_ended_already_is_read_to_the_end() -> None:
    live, notes = LiveJob(), list[str]()
    live.end_job()
    live.set_pod(0, "a", "terminated")
    live.write("a", f"{T}0Z one", f"{T}1Z two")
    assert (read(follower(live, notes)), notes) == (["a: one", "a: two"], [])


def test_hundreds_of_pods() -> None:
    live, notes = LiveJob(), list[str]()
    for index in range(300):
        live.set_pod(index, f"u{index}", "terminated")
        live.logs[f"u{index}"] = [f"{T}{second}Z {second}" for second in range(5)]
    live.end_job()
    found = read(follower(live, notes))
    assert sorted(found) == sorted(f"u{index}: {second}" for index in range(300) for second in range(5))


def test_readers_wait_for_the_output() -> None:
    live, notes = LiveJob(), list[str]()
    live.set_pod(0, "a")
    found = follower(live, notes)
    entries = found.entries()
    live.write("a", f"{T}0Z first")
    assert next(entries).line.text == b"first"
    stream = live._streams["a"][0]
    for number in range(5000):
        stream.queue.put(f"{T}1Z {number}\n".encode())
    texts = []
    while stream.taken < 2000:
        texts.append(next(entries).line.text)
    # The queue holds 2000 lines, and one more waits to enter it.
    assert stream.taken <= 2000 + len(texts) + 2
    assert stream.queue.qsize() >= 5000 - 2000 - len(texts) - 2


def test_a_missing_right_is_an_error() -> None:
    live, notes = LiveJob(), list[str]()
    live.set_pod(0, "a")
    live.refusals = {"digits-0": refused(403, "Forbidden", "jane cannot get pods/log")}
    with pytest.raises(CliError, match="jane cannot get pods/log"):
        read(follower(live, notes))


def test_only_wanted_pods_are_read() -> None:
    live, notes = LiveJob(), list[str]()
    live.end_job()
    for index in range(2):
        live.set_pod(index, f"u{index}", "terminated")
        live.write(f"u{index}", f"{T}0Z x")
    wanted = follower(live, notes, wanted=lambda pod, job: pod["metadata"]["uid"] == "u1" and bool(job))
    assert read(wanted) == ["u1: x"]


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        (b"no prefix", True),
        (b"[default1]: x", True),
        (b"[default0]: x", False),
        (b"[trainer.a-b1]:x", True),
        (b"[rank5]: Traceback", True),
        (b"[rank1]: Traceback", False),
        (b"[5]: a list", True),
        (b"[default1] x", True),
    ],
)
def test_the_lines_of_a_rank(text: bytes, counts: bool) -> None:
    assert Ranks(5, 1, 1).wants(text) is counts


def job(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "digits"}, "spec": {"nprocPerNode": "gpu"}, "status": status}


def test_where_a_rank_is() -> None:
    trains = job(
        membership={"nodes": 2, "worldSize": 8},
        nodes=[{"index": 0, "uid": "a", "rank": 1}, {"index": 1, "uid": "b", "rank": 0}, {"index": 2, "uid": "c"}],
    )
    found = find_rank(trains, 5)
    assert found == Ranks(5, 1, 1)
    assert found is not None
    assert pods_of_rank(trains, found) == {"a"}
    assert find_rank(job(), 5) is None


def test_pods_that_failed() -> None:
    live = LiveJob()
    live.set_pod(0, "a")
    live.set_pod(1, "b", "terminated", phase="Failed")
    live.set_pod(2, "c", "terminated")
    live.set_pod(3, "d")
    live.pods["d"]["status"]["initContainerStatuses"] = [{"name": "i", "state": {"terminated": {"exitCode": 2}}}]
    pods = list(live.pods.values())
    assert failed_pods(job(), pods) == {"b", "d"}
    assert failed_pods(job(lastFailure={"pod": "digits-0"}), pods) == {"a", "b", "d"}


@pytest.mark.parametrize(
    ("text", "paint", "line"),
    [
        (b"hello \xff", Paint(), b"digits-1   | hello \xff"),
        (b"", Paint(), b"digits-1   |"),
        (b"hello", Paint(on=True), b"\x1b[32mdigits-1   |\x1b[0m hello"),
    ],
)
def test_prefixes(text: bytes, paint: Paint, line: bytes) -> None:
    assert prefixed("digits-1", 1, text, most=10, paint=paint) == line
