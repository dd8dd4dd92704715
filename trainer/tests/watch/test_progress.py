"""Progress lines, documents, and a publisher that never gets in the way."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from typing import Any

import pytest

from torchrun_trainer import Run
from torchrun_trainer.watch.progress import Progress, Publisher

FULL = Progress(
    120, 600, 3, 0.12345, 812.53, 3, 100, datetime(2025, 11, 21, 3, 6, 40, tzinfo=UTC), 2, 5, 1, 0.1, 0.4, 0.0213
)
REST = "blocked=0.0213 slow=5"
EMPTY = Progress(1, None, None, None, None, 1, None, None)


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (
            FULL,
            f"time=1732150000.123 step=120/600 epoch=3 loss=0.1235 samples/s=812.5 world=3 snapshot=100 {REST}",
        ),
        (EMPTY, "time=1732150000.123 step=1 world=1"),
    ],
)
def test_line(progress: Progress, line: str) -> None:
    assert progress.line(1732150000.1234) == line


@pytest.mark.parametrize(
    ("progress", "document"),
    [
        (
            FULL,
            {
                "step": 120,
                "totalSteps": 600,
                "epoch": 3,
                "loss": 0.12345,
                "samplesPerSecond": 812.53,
                "worldSize": 3,
                "snapshotStep": 100,
                "snapshotTime": "2025-11-21T03:06:40Z",
                "beat": 2,
                "slowRank": 5,
                "slowNode": 1,
                "slowSeconds": 0.1,
                "stepSeconds": 0.4,
            },
        ),
        (
            Progress(1, None, None, float("nan"), None, 1, None, None),
            {
                "step": 1,
                "totalSteps": None,
                "epoch": None,
                "loss": None,
                "samplesPerSecond": None,
                "worldSize": 1,
                "snapshotStep": None,
                "snapshotTime": None,
                "beat": None,
                "slowRank": None,
                "slowNode": None,
                "slowSeconds": None,
                "stepSeconds": None,
            },
        ),
    ],
)
def test_document(progress: Progress, document: dict[str, object]) -> None:
    assert progress.document() == document


class Collector(ThreadingHTTPServer):
    """Records what is posted; answers with ``status`` once ``answer`` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.posted: SimpleQueue[Any] = SimpleQueue()
        self.answer = threading.Event()
        self.status = 200
        self.body = b"{}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/progress"


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.put((self.path, self.headers["Content-Type"], json.loads(body)))
        self.server.answer.wait(10)
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.answer.set()
        server.shutdown()
        thread.join()


def test_the_latest_is_posted_and_none_waits(collector: Collector) -> None:
    publisher = Publisher(collector.url)
    publisher.publish(EMPTY)
    first = collector.posted.get(timeout=10)
    for _ in range(1000):
        publisher.publish(EMPTY)
    publisher.publish(FULL)
    collector.answer.set()
    publisher.close()
    assert first == ("/v1/progress", "application/json", EMPTY.document())
    assert collector.posted.get(timeout=10) == ("/v1/progress", "application/json", FULL.document())
    assert collector.posted.empty()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "nonsense", "http://[::1", None], ids=str)
def test_a_bad_collector_is_mentioned_once(
    url: str | None, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    collector.status = 400
    collector.answer.set()
    publisher = Publisher(url or collector.url)
    publisher._post(FULL)
    publisher._post(FULL)
    publisher.close()
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert messages[0].startswith(f"progress cannot be posted to {url or collector.url}: ")


@pytest.mark.parametrize(
    ("body", "deadline"),
    [
        (b'{"progressDeadlineSeconds": 300.5}', 300.5),
        (b'{"progressDeadlineSeconds": 20}', 20.0),
        (b'{"progressDeadlineSeconds": null}', 0.0),
        (b'{"progressDeadlineSeconds": -1}', 0.0),
        (b'{"progressDeadlineSeconds": 1e99}', 0.0),
        (b'{"progressDeadlineSeconds": NaN}', 0.0),
        (b'{"progressDeadlineSeconds": "20"}', 0.0),
        (b"{}", 0.0),
        (b"[]", 0.0),
        (b"", 0.0),
        (b"\xff", 0.0),
    ],
)
def test_the_deadline_in_the_answer(collector: Collector, body: bytes, deadline: float) -> None:
    collector.body = body
    collector.answer.set()
    publisher = Publisher(collector.url)
    publisher.deadline = 7.0
    publisher._post(FULL)
    publisher.close()
    assert publisher.deadline == deadline


def test_beats_are_posted_at_most_once_a_second(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHRUN_PROGRESS_URL", collector.url)
    collector.answer.set()
    run = Run("")
    run.alive()  # before there is any progress to post
    for step in run.steps(2):
        if step == 1:
            for _ in range(1000):
                run.alive()
    run.alive()
    beats = []
    while not collector.posted.empty():
        _path, _kind, document = collector.posted.get()
        beats.append((document["step"], document["beat"]))
    assert beats[-1] == (2, 1)
    assert set(beats) <= {(1, 0), (1, 1), (2, 1)}
