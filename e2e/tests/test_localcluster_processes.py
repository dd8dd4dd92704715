"""The processes of the local cluster: which belong to it, and how they end, start and continue."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcluster import down, files, processes
from localcluster.machine import Machine
from localcluster.paths import Layout
from localcluster.processes import Identity, Process


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(checkout=tmp_path / "checkout", cache=tmp_path / "cache", state_home=tmp_path / "state")


def test_stat_of_a_process_with_a_treacherous_name() -> None:
    rest = " ".join(str(number) for number in range(5, 22))
    text = f"17 (a) S 1 (b)) Z 3 {rest} 4242 99"
    assert processes.parse_stat(text) == Process(Identity(17, 4242), parent=3, zombie=True)


def test_environment_of_a_process() -> None:
    assert processes.parse_environment(b"A=1\0B=x=y\0\0junk\0C=\0") == {"A": "1", "B": "x=y", "C": ""}


def _process(pid: int, *, start: int = 1, netns: int = 1, mark: str | None = None, zombie: bool = False) -> Process:
    return Process(Identity(pid, start), parent=1, zombie=zombie, netns=netns, mark=mark)


@pytest.mark.parametrize(
    ("process", "belongs"),
    [
        (_process(10), False),
        (_process(10, mark="mine"), True),
        (_process(10, mark="other"), False),
        (_process(10, netns=7), True),
        (_process(10, netns=8), False),
        (_process(20, start=5), True),
        (_process(20, start=6), False),  # The recorded process ended, and another one got its id.
        (_process(10, mark="mine", zombie=True), False),
    ],
)
def test_what_belongs_to_a_cluster(process: Process, belongs: bool) -> None:
    found = processes.belonging([process], mark="mine", netns=[7], recorded=[Identity(20, 5)])
    assert found == ([process] if belongs else [])


@pytest.fixture
def sleeper() -> Iterator[Identity]:
    with subprocess.Popen(["sleep", "60"]) as process:
        found = processes.look(process.pid)
        assert found is not None
        yield found.identity
        process.kill()


def test_end_spares_a_process_that_only_has_the_same_id(sleeper: Identity) -> None:
    processes.end([Identity(sleeper.pid, sleeper.start + 1)])
    assert processes.alive(sleeper)
    processes.end([sleeper], grace=5)
    assert not processes.alive(sleeper)


def test_a_service_is_kept_restarted_or_started(tmp_path: Path) -> None:
    record, log, configuration = tmp_path / "service.json", tmp_path / "log", tmp_path / "configuration"
    configuration.write_text("a")
    argv, mark = ["sleep", "60"], f"unit-test-{os.getpid()}"
    try:
        assert processes.ensure(record, argv, log, mark, [configuration])
        first = processes.load(record)
        assert first is not None
        assert not processes.ensure(record, argv, log, mark, [configuration])
        assert processes.load(record) == first
        assert [one.identity for one in processes.everyone() if one.mark == mark] == [first.identity]
        configuration.write_text("b")
        assert processes.ensure(record, argv, log, mark, [configuration])
        second = processes.load(record)
        assert second is not None
        assert not processes.alive(first.identity)
        assert processes.alive(second.identity)
    finally:
        processes.stop(record)
    assert processes.load(record) is None


def test_a_program_continues_before_the_process_that_stops_with_it(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = Identity(100, 1)
    processes.save(layout.machine("node1") / "services/kubelet.json", processes.Record(outside, ["nsenter"], ""))
    others = [Process(Identity(pid, 1), parent, zombie=False) for pid, parent in ((100, 1), (101, 100), (102, 1))]
    monkeypatch.setattr(processes, "everyone", lambda: others)
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    Machine(layout, "node1").signal("kubelet", signal.SIGCONT)
    assert sent == [(101, signal.SIGCONT), (100, signal.SIGCONT)]


def test_recorded_processes(layout: Layout) -> None:
    files.write_json(layout.machine("node1") / "machine.json", {"pid": 1, "start": 2})
    processes.save(layout.machine("node1") / "services/kubelet.json", processes.Record(Identity(3, 4), ["kubelet"], ""))
    processes.save(layout.state / "entrance.json", processes.Record(Identity(5, 6), ["socat"], ""))
    assert sorted(one.pid for one in down.recorded(layout.state)) == [1, 3, 5]
    assert down.recorded(layout.state / "nothing") == []
