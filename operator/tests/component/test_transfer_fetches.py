"""Fetches of real files from a real directory: complete, unchanged, and resumed where they stopped."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from torchrun_transfer.fetch import PARTS, RECORD
from torchrun_transfer.manifest import MANIFEST
from torchrun_transfer.plan import Remote
from torchrun_transfer.report import Result
from torchrun_transfer.run import Runner
from torchrun_transfer.task import Task
from transfers import LEGAL_NAMES, ChanceError, Clock, WatchedStore, read_tree, write_tree

CONTENT = {"train.csv": b"1,2\n" * 9, "deep/test.csv": b"3", "empty": b""}
STEP = 16 << 20


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_tree(tmp_path / "source", CONTENT)
    return tmp_path / "source"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


class ReadStore(WatchedStore):
    """A store that records reads, and calls something before each."""

    before: Callable[[str, int], None] = staticmethod(lambda _path, _start: None)

    def read(self, path: str, start: int, end: int) -> bytes:
        self.before(path, start)
        self.log.append(f"read {path} from {start}")
        return super().read(path, start, end)


def fetched(source: Path, data: Path, store: WatchedStore | None = None, pod: str = "digits-0") -> Result:
    used, clock = store or WatchedStore(source), Clock()
    return Runner(lambda _: used, clock, clock.pause).fetch(Task(f"file://{source}", str(data), pod=pod))


def content(data: Path) -> dict[str, bytes]:
    return {path: data_ for path, data_ in read_tree(data).items() if path != RECORD}


def test_everything_is_there_and_nothing_else(source: Path, data: Path) -> None:
    assert fetched(source, data) == Result(3, 37)
    assert content(data) == CONTENT
    assert not (data / PARTS).exists()


def test_all_legal_names(tmp_path: Path, data: Path) -> None:
    names = {name: name.encode() for name in LEGAL_NAMES}
    write_tree(tmp_path / "names", names)
    assert fetched(tmp_path / "names", data).error == ""
    assert content(data) == names


def test_what_is_there_is_not_fetched_again(source: Path, data: Path) -> None:
    fetched(source, data)
    store = ReadStore(source)
    assert fetched(source, data, store) == Result(3, 37)
    assert store.log == []
    write_tree(source, {"train.csv": b"new"})
    (data / "deep/test.csv").unlink()
    assert fetched(source, data, store) == Result(3, 4)
    assert store.log == ["read deep/test.csv from 0", "read train.csv from 0"]
    assert content(data) == {**CONTENT, "train.csv": b"new"}


def test_a_large_file_is_resumed_where_it_stopped(source: Path, data: Path) -> None:
    write_tree(source, {"large": bytes(range(256)) * (STEP // 256 * 2) + b"end"})
    failed: list[int] = []

    def fail_once(path: str, start: int) -> None:
        if path == "large" and start == STEP and not failed:
            failed.append(start)
            raise ChanceError

    store = ReadStore(source)
    store.before = fail_once
    assert fetched(source, data, store).error == ""
    large = [line for line in store.log if "large" in line]
    assert large == [f"read large from {start}" for start in (0, STEP, 2 * STEP)]
    assert (data / "large").read_bytes() == (source / "large").read_bytes()


def test_an_input_that_changes_while_it_is_read_is_fetched_again(source: Path, data: Path) -> None:
    changed: list[str] = []

    def change_once(path: str, _start: int) -> None:
        if path == "train.csv" and not changed:
            changed.append(path)
            write_tree(source, {"train.csv": b"other"}, modified=1_000_001.0)

    store = ReadStore(source)
    store.before = change_once
    assert fetched(source, data, store).error == ""
    assert (data / "train.csv").read_bytes() == b"other"


def test_an_input_that_never_stops_changing_is_named(source: Path, data: Path) -> None:
    count = iter(range(10_000))

    def change(path: str, _start: int) -> None:
        if path == "train.csv":
            write_tree(source, {"train.csv": str(next(count)).encode()}, modified=1_000_001.0 + next(count))

    store, clock = ReadStore(source), Clock()
    store.before = change
    result = Runner(lambda _: store, clock, clock.pause).fetch(Task("s3://d/x", str(data)))
    assert result.error == "s3://d/x: train.csv changed while it was read; upload the input under a new url"
    assert "train.csv" not in content(data)


def _manifest(source: Path, **files: str) -> None:
    entries = [{"path": path, "size": 1, "sha256": sha, "modified": 0, "tag": ""} for path, sha in files.items()]
    document = {"format": "torchrun-manifest-1", "time": "", "job": {}, "files": entries}
    (source / MANIFEST).write_text(json.dumps(document))


def test_a_manifest_decides_which_files_are_fetched_and_how_they_must_be(source: Path, data: Path) -> None:
    three = "4e07408562bedb8b60ce05c1decfe3ad16b72230967de01f640b7e4729b49fce"
    _manifest(source, **{"deep/test.csv": three})
    assert fetched(source, data) == Result(1, 1)
    assert content(data) == {"deep/test.csv": b"3"}
    _manifest(source, **{"train.csv": "0" * 64})
    assert "the manifest says 000000" in fetched(source, data).error
    _manifest(source, gone=three)
    expected = f"file://{source} lacks gone, which its manifest lists; upload it again"
    assert fetched(source, data).error == expected


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a//b", "a/./b", "a\0b"])
def test_names_that_lead_elsewhere(name: str, source: Path, data: Path) -> None:
    class Hostile(WatchedStore):
        def files(self) -> dict[str, Remote]:
            return {name: Remote(1)}

    assert fetched(source, data, Hostile(source)).error.endswith(
        f"has a file named {name!r}, which is no path of a file; rename it"
    )


def test_nothing_to_fetch(tmp_path: Path, data: Path) -> None:
    result = fetched(tmp_path / "nowhere", data)
    assert result.error == f"file://{tmp_path / 'nowhere'} has no files; correct the url in spec.inputs"


def test_two_pods_fetch_to_one_volume(source: Path, data: Path) -> None:
    """The second one is in the middle of a file when the first one begins and ends."""
    other: list[Result] = []

    def interleave(path: str, _start: int) -> None:
        if path == "train.csv" and not other:
            other.append(fetched(source, data, pod="digits-1"))

    store = ReadStore(source)
    store.before = interleave
    assert (fetched(source, data, store), other) == (Result(3, 37), [Result(3, 37)])
    assert content(data) == CONTENT
