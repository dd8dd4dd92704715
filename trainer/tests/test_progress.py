"""Progress lines, documents, and a publisher that never gets in the way."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue

import pytest

from torchrun_trainer.progress import Progress, Publisher

FULL = Progress(120, 600, 3, 0.12345, 812.53, 3, 100, datetime(2025, 11, 21, 3, 6, 40, tzinfo=UTC))
EMPTY = Progress(1, None, None, None, None, 1, None, None)


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (FULL, "time=1732150000.123 step=120/600 epoch=3 loss=0.1235 samples/s=812.5 world=3 snapshot=100"),
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
            },
        ),
    ],
)
def test_document(progress: Progress, document: dict[str, object]) -> None:
    assert progress.document() == document


class Collector(ThreadingHTTPServer):
    """Takes down what is posted; answers with ``status`` once ``answer`` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.posted: SimpleQueue[object] = SimpleQueue()
        self.answer = threading.Event()
        self.status = 200

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
