"""Uploads of real files to a real directory: complete, once, in the right order, whatever fails."""

import os
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from torchrun_transfer.manifest import JOURNAL, MANIFEST
from torchrun_transfer.plan import Local, Remote
from torchrun_transfer.report import Result
from torchrun_transfer.run import Runner
from torchrun_transfer.stores.base import Store
from torchrun_transfer.task import Task
from torchrun_transfer.tree import Reading
from torchrun_transfer.troubles import ChangedError
from transfers import LEGAL_NAMES, Clock, WatchedStore, listed, problems_of, read_tree, write_tree

CONTENT = {"model.pt": b"m" * 3_000_000, "logs/a.log": b"a", "logs/empty": b""}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_tree(tmp_path / "source", CONTENT)
    return tmp_path / "source"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


def task(source: Path, target: Path, **changes: object) -> Task:
    return Task(**{"url": f"file://{target}", "path": str(source), "job": {"name": "digits"}, **changes})  # type: ignore[arg-type]


def runner(clock: Clock, locate: Callable[[str], Store]) -> Runner:
    return Runner(locate, clock, clock.pause)


def test_everything_is_there_and_nothing_else(source: Path, target: Path, clock: Clock) -> None:
    assert Runner(clock=clock, pause=clock.pause).upload(task(source, target)) == Result(3, 3_000_001)
    copy = read_tree(target)
    assert copy.keys() == {*CONTENT, MANIFEST}
    assert {path: copy[path] for path in CONTENT} == CONTENT
    assert (listed(copy), problems_of(copy)) == (set(CONTENT), [])
    assert sorted(path.name for path in target.iterdir()) == [MANIFEST, "logs", "model.pt"]
    assert clock.waits == []


def test_a_second_upload_sends_nothing(source: Path, target: Path, clock: Clock) -> None:
    store = WatchedStore(target)
    for _ in range(2):
        assert runner(clock, lambda _: store).upload(task(source, target)) == Result(3, 3_000_001)
    assert sorted(store.log) == sorted([*(f"put {path}" for path in CONTENT), f"put {MANIFEST}", f"remove {JOURNAL}"])
    assert store.log[-2:] == [f"put {MANIFEST}", f"remove {JOURNAL}"]


def test_the_manifest_goes_before_a_listed_file_changes(source: Path, target: Path, clock: Clock) -> None:
    store = WatchedStore(target)
    runner(clock, lambda _: store).upload(task(source, target))
    store.log.clear()
    write_tree(source, {"model.pt": b"new", "added.pt": b"x"}, modified=1_000_001.0)
    (source / "logs/a.log").unlink()
    runner(clock, lambda _: store).upload(task(source, target))
    assert store.log[:2] == [f"put {JOURNAL}", f"remove {MANIFEST}"]
    assert sorted(store.log[2:4]) == ["put added.pt", "put model.pt"]
    assert store.log[4:] == [f"put {MANIFEST}", f"remove {JOURNAL}"]
    copy = read_tree(target)
    assert (listed(copy), problems_of(copy), store.broken) == ({"model.pt", "added.pt", "logs/empty"}, [], [])
    assert copy["logs/a.log"] == b"a"  # nothing is deleted from the store


@pytest.mark.parametrize("seed", range(8))
def test_random_faults_and_changes(seed: int, source: Path, target: Path, clock: Clock) -> None:
    chance = random.Random(seed)
    store = WatchedStore(target, chance, share=0.08)
    expected = dict(CONTENT)
    for step in range(6):
        changed = {f"f{chance.randrange(9)}.pt": bytes([step]) * chance.randrange(5000) for _ in range(3)}
        write_tree(source, changed, modified=1_000_000.0 + step)
        expected |= changed
        result = runner(clock, lambda _: store).upload(task(source, target, patience_seconds=1e9))
        assert result == Result(len(expected), sum(map(len, expected.values()))), f"seed {seed}"
        copy = read_tree(target)
        assert {path: copy[path] for path in expected} == expected, f"seed {seed}"
        assert copy.keys() == {*expected, MANIFEST}, f"seed {seed}"
        assert listed(copy) == set(expected), f"seed {seed}"
    assert store.broken == [], f"seed {seed}"
    assert store.faults > 0  # about 15: it depends on the threads which request meets one


def test_all_legal_names(tmp_path: Path, target: Path, clock: Clock) -> None:
    content = {name: name.encode() for name in LEGAL_NAMES}
    write_tree(tmp_path / "names", content)
    assert Runner(clock=clock).upload(task(tmp_path / "names", target)).error == ""
    copy = read_tree(target)
    assert (listed(copy), problems_of(copy)) == (set(content), [])


def test_a_name_that_is_not_utf8(tmp_path: Path, target: Path, clock: Clock) -> None:
    directory = tmp_path / "names"
    directory.mkdir()
    Path(os.fsdecode(os.fsencode(directory) + b"/\xe9t\xe9.pt")).write_bytes(b"")
    result = Runner(clock=clock, pause=clock.pause).upload(task(directory, target))
    assert result.error == "the name of \ufffdt\ufffd.pt is not UTF-8, which stores need: rename or exclude it"


def test_only_files_of_the_output_are_sent(source: Path, tmp_path: Path, target: Path, clock: Clock) -> None:
    (tmp_path / "secret").write_text("secret")
    (source / "latest.pt").symlink_to("model.pt")
    (source / "outside").symlink_to(tmp_path / "secret")
    (source / "nowhere").symlink_to("gone")
    (source / "loop").symlink_to(".")
    os.mkfifo(source / "pipe")
    (source / "_torchrun_manifest.json").write_text("{}")
    Runner(clock=clock).upload(task(source, target, exclude=("logs",)))
    assert listed(read_tree(target)) == {"latest.pt", "model.pt"}


def test_one_file(source: Path, target: Path, clock: Clock) -> None:
    assert Runner(clock=clock).upload(task(source / "model.pt", target)) == Result(1, 3_000_000)
    assert read_tree(target).keys() == {"model.pt", MANIFEST}


@pytest.mark.parametrize(
    ("path", "url", "error"),
    [
        (
            "/nowhere/out",
            "file:///tmp/x",
            (
                "the output path /nowhere/out does not exist: the training script must write its files there, see "
                "spec.outputs"
            ),
        ),
        (
            "/",
            "gopher://x/y",
            "gopher://x/y: Protocol not known: gopher; see spec.outputs and spec.inputs for the known schemes",
        ),
    ],
)
def test_what_cannot_succeed_ends_soon(path: str, url: str, error: str, clock: Clock) -> None:
    result = Runner(clock=clock, pause=clock.pause).upload(Task(url, path, include=("*.none",)))
    assert result == Result(error=error)
    assert clock.waits == [1.0, 2.0]


def test_a_store_that_stays_away(source: Path, target: Path, clock: Clock) -> None:
    result = runner(clock, lambda _: WatchedStore(target, share=1.0)).upload(task(source, target))
    assert result == Result(error=f"file://{target}: ChanceError: by chance")
    assert (clock.waits[:7], sum(clock.waits)) == ([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0], 843.0)


class TouchingStore(WatchedStore):
    """A store in whose presence a file of the source changes when it is sent for the first time."""

    def put(self, path: str, blocks: Iterable[bytes], size: int) -> Remote:
        if path == "model.pt" and "touched" not in self.log:
            self.log.append("touched")
            return super().put(path, self._touching(blocks), size)
        return super().put(path, blocks, size)

    def _touching(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        for block in blocks:
            yield block
            (self.root.parent / "source/model.pt").write_bytes(b"n" * 3_000_000)


def test_a_file_that_changes_while_it_is_read_is_sent_again(source: Path, target: Path, clock: Clock) -> None:
    store = TouchingStore(target)
    assert runner(clock, lambda _: store).upload(task(source, target)) == Result(3, 3_000_001)
    copy = read_tree(target)
    assert (copy["model.pt"], problems_of(copy), store.broken) == (b"n" * 3_000_000, [], [])
    assert clock.waits == [1.0]


def test_reading_notices_a_file_that_is_replaced_or_removed(source: Path) -> None:
    file = source / "model.pt"
    expected = Local(file.stat().st_size, file.stat().st_mtime_ns)
    reading = Reading(str(file), expected)
    blocks = reading.blocks()
    next(blocks)
    file.unlink()
    with pytest.raises(ChangedError, match=r"model\.pt was removed while it was read"):
        list(blocks)


class StopError(Exception):
    """Ends the endless loop of a periodic upload."""


def test_periodic_uploads_send_what_has_settled(source: Path, target: Path, clock: Clock) -> None:
    """Period 1: the output does not exist yet. Period 2: one file is still being written. Period 3: no more."""
    late = source.with_name("late")
    seen: list[set[str]] = []

    def pause(seconds: float) -> None:
        seen.append(listed(read_tree(target)) if target.exists() else set())
        clock.pause(seconds)
        match len(seen):
            case 1:
                write_tree(late, CONTENT)
                write_tree(late, {"model.pt": b"half"}, modified=clock.now)
            case 3:
                raise StopError

    with pytest.raises(StopError):
        Runner(clock=clock, pause=pause).upload_periodically(task(late, target, every_seconds=30.0))
    assert seen == [set(), {"logs/a.log", "logs/empty"}, set(CONTENT)]
    assert clock.waits == [30.0, 30.0, 30.0]
