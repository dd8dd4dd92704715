"""One run at a time owns a place: its restart, or a run after its end, gets in; another live run does not."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from torchrun_trainer.snapshots import owner
from torchrun_trainer.snapshots.owner import OwnedError, Owner, Record, decode, this_process
from torchrun_trainer.snapshots.storage import Storage, storage

NAME = ".snapshots.owner"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(owner, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")


@pytest.fixture
def place(tmp_path: Path) -> Storage:
    return storage(tmp_path)


@pytest.fixture
def neighbour() -> Iterator[int]:
    """Another process on this host."""
    with subprocess.Popen(["sleep", "100"]) as process:
        yield process.pid
        process.kill()


def on_this_machine(process: int) -> Record:
    return replace(this_process(), run="other", process=process, started=owner._started(process))


ELSEWHERE = replace(this_process(), run="other", host="far", machine="another boot", token="theirs")


@pytest.mark.parametrize(
    ("run", "slurm", "name"),
    [("job-1", "7", "job-1"), ("none", "7", "slurm-7"), ("none", "", ""), ("", "", "")],
    ids=["torchrun", "Slurm", "torchrun's default", "plain"],
)
def test_the_name_of_a_run(monkeypatch: pytest.MonkeyPatch, run: str, slurm: str, name: str) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", run)
    monkeypatch.setenv("SLURM_JOB_ID", slurm)
    assert this_process().run == name


def test_a_place_is_taken_refreshed_and_given_up(place: Storage) -> None:
    ours = Owner(place, NAME)
    ours.acquire()
    ours.acquire()
    while (record := decode(place.get(NAME))) is None or record.beat < 2:
        threading.Event().wait(0.01)
    assert (record.token, record.run, record.process) == (ours.token, "mine", os.getpid())
    ours.check()
    ours.release()
    ours.release()
    assert place.files() == {}


@pytest.mark.parametrize(
    "earlier",
    [
        replace(ELSEWHERE, run="mine"),
        replace(this_process(), run="other"),
        replace(on_this_machine(os.getpid()), process=2**22 + 1),
        replace(on_this_machine(os.getppid()), started="0"),
        ELSEWHERE,
        None,
    ],
    ids=["same run elsewhere", "same process", "ended here", "its number is taken", "no sign of life", "no record"],
)
def test_who_makes_room(place: Storage, earlier: Record | None) -> None:
    place.put(NAME, earlier.encode() if earlier else b"rubbish")
    ours = Owner(place, NAME)
    ours.acquire()
    ours.check()
    ours.release()


def test_a_process_of_another_run_on_this_machine_keeps_its_place(place: Storage, neighbour: int) -> None:
    there = on_this_machine(neighbour).encode()
    place.put(NAME, there)
    with pytest.raises(OwnedError, match=rf"belongs to another run, which is alive: other \(process {neighbour} on"):
        Owner(place, NAME).acquire()
    assert place.get(NAME) == there


def test_one_elsewhere_that_shows_signs_of_life_keeps_its_place(
    place: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "PATIENCE_SECONDS", 100.0)
    monkeypatch.setattr(owner, "_LOOK_SECONDS", 0.001)
    place.put(NAME, ELSEWHERE.encode())
    over = threading.Event()

    def live() -> None:
        beat = 0
        while not over.wait(0.01):
            beat += 1
            place.put(NAME, replace(ELSEWHERE, beat=beat).encode())

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(OwnedError, match=r"alive: other .* on far"):
            Owner(place, NAME).acquire()
    finally:
        over.set()
        thread.join()


def test_one_elsewhere_that_leaves_makes_room_at_once(place: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "PATIENCE_SECONDS", 100.0)
    place.put(NAME, ELSEWHERE.encode())
    monkeypatch.setattr("torchrun_trainer.snapshots.owner.time.sleep", lambda _: place.remove(NAME))
    ours = Owner(place, NAME)
    ours.acquire()
    ours.release()


@pytest.mark.parametrize(("run", "who"), [("mine", "a later process of this run"), ("other", "another run")])
def test_a_place_that_was_taken_over_is_not_ours(place: Storage, run: str, who: str) -> None:
    ours = Owner(place, NAME)
    ours.acquire()
    theirs = replace(ELSEWHERE, run=run).encode()
    place.put(NAME, theirs)
    with pytest.raises(OwnedError, match=f"was taken over by {who}"):
        ours.check()
    ours.release()
    assert place.get(NAME) == theirs


def test_without_proc_a_run_is_told_by_its_signs_of_life(
    place: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(owner, "Path", lambda name: tmp_path / "absent" / name.lstrip("/"))
    us = this_process()
    assert (us.machine, us.started) == ("", "")
    place.put(NAME, replace(us, run="other").encode())
    ours = Owner(place, NAME)
    ours.acquire()
    ours.release()


if sys.platform != "linux":
    pytestmark = pytest.mark.skip(reason="reads /proc")
