"""Uploads to, and fetches from, a real S3 server, while requests fail and the process is killed."""

import hashlib
import json
import logging
import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fault_proxy import FAULTS, FaultProxy
from localcluster.shell import ClusterError
from support import s3
from torchrun_transfer.manifest import MANIFEST
from torchrun_transfer.report import Result
from torchrun_transfer.run import Runner
from torchrun_transfer.stores.remote import RemoteStore
from torchrun_transfer.task import Task
from torchrun_transfer.troubles import ChangedError
from transfer_process import upload_or_kill
from transfers import LEGAL_NAMES, Clock, Content, listed, problems_of, write_tree

logger = logging.getLogger(__name__)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

BUCKET = "results"
LEAST_FAULTS = int(os.environ.get("TRANSFER_FAULTS", "200"))
SEED = int(os.environ.get("TRANSFER_SEED", "0")) or random.SystemRandom().randrange(1, 1_000_000)


@dataclass
class Server:
    """An S3 server, and its bucket as a directory."""

    environment: dict[str, str]
    data: Path

    def content(self, below: str) -> Content:
        """Return the objects below a prefix, without what the server itself keeps there."""
        root = self.data / BUCKET / below
        found = ((str(file.relative_to(root)), file) for file in root.rglob("*") if file.is_file())
        return {path: file.read_bytes() for path, file in found if not path.startswith(".sgwtmp")}

    @property
    def unfinished(self) -> list[str]:
        """The files of uploads in parts that were not completed."""
        parts = self.data / BUCKET / ".sgwtmp"
        return [str(file.relative_to(parts)) for file in parts.rglob("*") if file.is_file()] if parts.exists() else []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    try:
        s3.build()
    except ClusterError as error:
        pytest.skip(f"the S3 server cannot be built: {error}")
    directory = tmp_path_factory.mktemp("s3")
    with s3.server(directory, (BUCKET,)) as environment:
        yield Server(environment, directory / "data")


@pytest.fixture
def reached(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Return the server after this process has learned how to reach it."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


def quick(task: Task) -> Result:
    clock = Clock()
    return Runner(clock=clock, pause=clock.pause).upload(task)


def test_all_legal_names_and_sizes(reached: Server, tmp_path: Path) -> None:
    content = {name: name.encode() for name in LEGAL_NAMES} | {"large": os.urandom((40 << 20) + 1), "empty": b""}
    write_tree(tmp_path / "source", content)
    task = Task(f"s3://{BUCKET}/names", str(tmp_path / "source"))
    assert quick(task) == Result(len(content), sum(map(len, content.values())))
    copy = reached.content("names")
    assert (listed(copy), problems_of(copy), copy.keys() - content.keys()) == (set(content), [], {MANIFEST})
    back = Task(f"s3://{BUCKET}/names", str(tmp_path / "back"))
    assert Runner(clock=Clock()).fetch(back).error == ""
    assert {path: (tmp_path / "back" / path).read_bytes() for path in content} == content


@pytest.mark.parametrize(
    ("environment", "bucket", "words"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, BUCKET, "s3://results/x refuses access: "),
        ({"AWS_ACCESS_KEY_ID": "unknown"}, BUCKET, "s3://results/x refuses access: "),
        ({}, "nowhere", "s3://nowhere/x does not exist: "),
    ],
)
def test_mistakes(
    environment: dict[str, str],
    bucket: str,
    words: str,
    reached: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    write_tree(tmp_path, {"a": b"a"})
    clock = Clock()
    result = Runner(clock=clock, pause=clock.pause).upload(Task(f"s3://{bucket}/x", str(tmp_path)))
    assert result.error.startswith(words), result.error
    assert clock.waits == [1.0, 2.0]


def test_a_name_that_fsspec_takes_for_a_version(reached: Server, tmp_path: Path) -> None:
    write_tree(tmp_path, {"a?versionId=1": b"a"})
    result = quick(Task(f"s3://{BUCKET}/versions", str(tmp_path)))
    assert result.error == (
        "a?versionId=1: fsspec takes ?versionId= in a name for a version; rename or exclude the file"
    )


def test_one_object_is_fetched(reached: Server, tmp_path: Path) -> None:
    write_tree(reached.data / BUCKET, {"one/data.csv": b"1,2"})
    assert Runner().fetch(Task(f"s3://{BUCKET}/one/data.csv", str(tmp_path / "in"))) == Result(1, 3)
    assert (tmp_path / "in/data.csv").read_bytes() == b"1,2"


def test_a_large_file_goes_on_where_it_was_cut(reached: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    part = 16 << 20
    content = os.urandom(4 * part + 5)
    blocks = [content[start : start + (1 << 20)] for start in range(0, len(content), 1 << 20)]

    def cut() -> Iterator[bytes]:
        yield from blocks[:40]  # two parts and a half
        raise ChangedError("cut")

    store, sent = RemoteStore(f"s3://{BUCKET}/parts"), []
    with pytest.raises(ChangedError, match="cut"):
        store.put("large.pt", cut(), len(content))
    assert len(reached.unfinished) > 0
    call = store._fs.call_s3

    def counted(method: str, **arguments: Any) -> Any:
        sent.append(arguments["PartNumber"]) if method == "upload_part" else None
        return call(method, **arguments)

    monkeypatch.setattr(store._fs, "call_s3", counted)
    store.tidy(keep=["large.pt"])
    assert store.put("large.pt", blocks, len(content)).size == len(content)
    assert (sent, reached.content("parts")) == ([3, 4, 5], {"large.pt": content})
    changed = [*blocks]
    changed[20] = bytes(1 << 20)
    with pytest.raises(ChangedError, match="cut"):
        store.put("large.pt", cut(), len(content))
    sent.clear()
    store.put("large.pt", changed, len(content))
    assert (sent, reached.content("parts")) == ([2, 3, 4, 5], {"large.pt": b"".join(changed)})
    with pytest.raises(ChangedError, match="cut"):
        store.put("large.pt", cut(), len(content))
    store.tidy()
    assert reached.unfinished == []


class Reader:
    """Reads the copy again and again while it is written, and notes what the manifest promises and is not there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.broken: list[str] = []
        self.whole = 0
        self._known: dict[tuple[int, ...], str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._stop.wait(0.02):
            first = self._manifest()
            if first is None:
                continue
            wrong = [each["path"] for each in json.loads(first[1])["files"] if not self._is_right(each)]
            if self._manifest() == first:  # it was there all the time
                self.whole += not wrong
                self.broken += wrong

    def _manifest(self) -> tuple[int, bytes] | None:
        file = self.root / MANIFEST
        try:
            return file.stat().st_ino, file.read_bytes()
        except FileNotFoundError:
            return None

    def _is_right(self, each: dict[str, object]) -> bool:
        try:
            file = (self.root / str(each["path"])).open("rb")
        except FileNotFoundError:
            return False
        with file:
            state = os.fstat(file.fileno())
            if state.st_size != each["size"]:
                return False
            # The server replaces files and changes none in place: the same file has the same content.
            same = (state.st_ino, state.st_mtime_ns, state.st_ctime_ns, state.st_size)
            if same not in self._known:
                self._known[same] = hashlib.file_digest(file, "sha256").hexdigest()
            return self._known[same] == each["sha256"]


def test_random_faults_and_kills(server: Server, tmp_path: Path) -> None:
    """Rounds of changed files, each uploaded by processes that are killed at random, until one ends well."""
    chance, source, kills, rounds = random.Random(SEED), tmp_path / "source", 0, 0
    expected: Content = {}
    host, port = server.environment["AWS_ENDPOINT_URL"].removeprefix("http://").split(":")
    proxy = FaultProxy((host, int(port)), SEED, share=0.12)
    root = server.data / BUCKET / "chaos"
    with proxy.running() as url, Reader(root) as reader:
        while sum(proxy.happened.values()) + kills < LEAST_FAULTS:
            rounds += 1
            changed = {f"f{chance.randrange(8)}/ü {n}.pt": chance.randbytes(chance.randrange(9000)) for n in range(4)}
            if rounds % 4 == 1:
                changed["large.pt"] = chance.randbytes((20 << 20) + rounds)
            write_tree(source, changed, modified=1_000_000.0 + rounds)
            expected |= changed
            proxy.share = 0.12
            environment = {**server.environment, "AWS_ENDPOINT_URL": url}
            task: dict[str, object] = {"url": f"s3://{BUCKET}/chaos", "path": str(source)}
            while upload_or_kill(task, environment, _after(proxy, chance.randrange(1, 60))) != 0:
                kills += 1
            copy = server.content("chaos")
            assert {path: copy.get(path) for path in expected} == expected, f"seed {SEED}, round {rounds}"
            assert (problems_of(copy), copy.keys() - expected.keys()) == ([], {MANIFEST}), f"seed {SEED}"
            assert listed(copy) == set(expected), f"seed {SEED}, round {rounds}"
    logger.info(
        "seed %d: %s, %d kills, %d rounds, %d readings", SEED, dict(proxy.happened), kills, rounds, reader.whole
    )
    assert (reader.broken, server.unfinished) == ([], []), f"seed {SEED}"
    assert reader.whole > 0
    assert kills > 0
    assert proxy.happened.keys() == set(FAULTS)


def _after(proxy: FaultProxy, count: int) -> Callable[[], bool]:
    """Return what tells that the proxy has got so many requests more."""
    last = proxy.requests + count
    return lambda: proxy.requests >= last
