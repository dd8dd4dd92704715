"""Files are complete or absent, in a directory and at a URL alike."""

import itertools
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import pytest
import torch

from torchrun_trainer.snapshots.storage import (
    Sink,
    Storage,
    StorageError,
    base,
    checksum_of,
    directory,
    object_store,
    storage,
)

CHECKSUM = checksum_of(lambda file: file.write(b"content"))


@pytest.fixture(params=["directory", "file URL", "memory URL"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    locations = {
        "directory": str(tmp_path / "a"),
        "file URL": f"file://{tmp_path}/a",
        "memory URL": "memory://bucket/a",
    }
    there = storage(locations[request.param])
    there.prepare()
    yield there
    fsspec.filesystem("memory").store.clear()


def content(file: Sink) -> None:
    file.write(b"con")
    file.flush()
    file.write(memoryview(b"tent"))


def test_what_is_published_is_there(place: Storage) -> None:
    assert place.files() == {}
    assert place.publish("a-", content, lambda checksum: f"a-{checksum}") == f"a-{CHECKSUM}"
    ((name, changed),) = place.files().items()
    assert (name, place.get(name), place.checksum(name)) == (f"a-{CHECKSUM}", b"content", (7, CHECKSUM))
    assert abs(changed - datetime.now(UTC)) < timedelta(minutes=5)
    assert place.directories() == []


def test_what_fails_is_not_there(place: Storage) -> None:
    def fails(file: Sink) -> None:
        file.write(b"con")
        raise OSError("no more")

    place.put("other", b"")
    with pytest.raises(OSError, match="no more"):
        place.publish("a-", fails, str)
    assert list(place.files()) == ["other"]


class Full:
    def write(self, _: object) -> int:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        pass


def test_the_reason_is_that_of_the_file(place: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.save, cut short, raises another error, about positions."""
    for module in (directory, object_store):
        monkeypatch.setattr(module, "Hashing", lambda _: base.Hashing(Full()))
    with pytest.raises(OSError, match="No space left on device"):
        place.publish("a-", lambda file: torch.save(torch.ones(100_000), file), str)  # type: ignore[arg-type]
    if place.local:  # fsspec's memory cannot discard a file
        assert place.files() == {}


def test_small_files_and_directories(place: Storage) -> None:
    for value in (b"one", b"two"):
        place.put("small", value)
        assert place.get("small") == value
    place.make_directory("d")
    with place.open("d/x", "wb") as file:
        file.write(b"x")
    place.settle("d")
    assert (place.directories(), place.exists("d/x"), place.exists("d/y"), place.get("y")) == (["d"], True, False, None)
    place.rename("small", "large")
    assert list(place.files()) == ["large"]
    for name in ("d", "large", "large"):
        place.remove(name)
    assert (place.files(), place.directories()) == ({}, [])


def test_a_url_whose_content_changes_meanwhile_is_an_error() -> None:
    there = storage("memory://bucket/b")
    texts = itertools.count()
    with pytest.raises(OSError, match="changed while it was being written"):
        there.publish("a-", lambda file: file.write(str(next(texts)).encode()), str)


@pytest.mark.parametrize(
    ("url", "message"),
    [("nosuch://bucket/a", "nosuch://bucket/a cannot be used for snapshots: Protocol not known: nosuch")],
)
def test_a_url_that_cannot_be_used(url: str, message: str) -> None:
    with pytest.raises(StorageError, match=message):
        storage(url)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(StorageError, match=r"Install s3fs to access S3; pip install 'torchrun-trainer\[s3\]'"):
        storage("s3://bucket")


@pytest.mark.parametrize(
    ("facts", "changed"),
    [
        ({"LastModified": datetime(2026, 1, 2, tzinfo=UTC)}, datetime(2026, 1, 2, tzinfo=UTC)),
        ({"updated": "2026-01-02T00:00:00Z"}, datetime(2026, 1, 2, tzinfo=UTC)),
        ({"mtime": 86400}, datetime(1970, 1, 2, tzinfo=UTC)),
        ({"created": datetime(2026, 1, 2)}, datetime(2026, 1, 2, tzinfo=UTC)),  # noqa: DTZ001
        ({}, datetime(1970, 1, 1, tzinfo=UTC)),
    ],
    ids=["S3", "GCS", "local", "without zone", "unknown"],
)
def test_when_an_object_was_changed(facts: dict[str, object], changed: datetime) -> None:
    assert object_store._modified({"name": "a", **facts}) == changed


def test_a_directory_forgets_what_killed_writers_left(tmp_path: Path) -> None:
    (tmp_path / ".a-123.tmp").touch()
    (tmp_path / ".b-123.tmp").touch()
    storage(tmp_path).publish("a-", content, str)
    assert sorted(os.listdir(tmp_path)) == [".b-123.tmp", CHECKSUM]  # noqa: PTH208
