"""Workers write where they stand when a person asks, even if stuck in native code, and continue."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from torchrun_trainer.watch import stacks

WORKER = """
import ctypes, sys, threading
from torchrun_trainer import Run
run = Run()
def stuck_here():
    print("ready", flush=True)
    sys.stdin.readline()
def stuck_in_native_code():
    print("ready", flush=True)
    ctypes.PyDLL(None).sleep(3)
for step in run.steps(1):
    eval(sys.argv[1])()
print("done", flush=True)
"""


@contextmanager
def worker(where: str, rank: str | None = None) -> Iterator[subprocess.Popen[str]]:
    environment = {name: value for name, value in os.environ.items() if name != "RANK"}
    environment |= {"OMP_NUM_THREADS": "1"} | ({"RANK": rank} if rank else {})
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, where],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            assert process.stdout
            while process.stdout.readline() != "ready\n":
                assert process.poll() is None
            yield process
        finally:
            process.kill()


@pytest.mark.torch
@pytest.mark.parametrize("where", ["stuck_here", "stuck_in_native_code"])
def test_a_worker_answers_and_goes_on(where: str) -> None:
    with worker(where) as process:
        process.send_signal(signal.SIGUSR1)
        output, said = process.communicate("\n", timeout=60)
    assert process.returncode == 0
    assert output.endswith("done\n")
    assert re.search(rf'File "<string>", line \d+ in {where}', said)
    assert "Current thread" in said
    assert said.count("Thread 0x") >= 2  # the watchdog and the termination


@pytest.mark.torch
def test_the_command_asks_workers_and_nobody_else(capfd: pytest.CaptureFixture[str]) -> None:
    import torch

    assert torch.__version__  # this process has PyTorch too, but does not expect the signal
    before = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    try:
        with worker("stuck_here", "5") as asked, worker("stuck_here") as other:
            command = [sys.executable, "-m", "torchrun_trainer.stacks"]
            said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            assert f"asked process {asked.pid} (rank 5): its stacks are in this node's log\n" in said
            assert f"asked process {other.pid}: its stacks are in this node's log\n" in said
            assert str(os.getpid()) not in re.findall(r"process (\d+)", said)
            assert all("in stuck_here" in process.communicate("\n", timeout=60)[1] for process in (asked, other))
    finally:
        signal.signal(signal.SIGUSR1, before)


def process(
    proc: Path, number: int, *, caught: str = "0000000000000200", maps: str = "/x/libtorch_cpu.so", environ: str = ""
) -> None:
    directory = proc / str(number)
    directory.mkdir()
    (directory / "status").write_text(f"Name:\tpython\nSigCgt:\t{caught}\n")
    (directory / "maps").write_text(maps)
    (directory / "environ").write_text(environ)


def test_who_is_a_worker(tmp_path: Path) -> None:
    process(tmp_path, 10, environ="A=1\0RANK=3\0")
    process(tmp_path, 9)
    process(tmp_path, 11, caught="0000000000004000")
    process(tmp_path, 12, maps="/lib/libc.so.6")
    process(tmp_path, 13)
    (tmp_path / "13/maps").unlink()
    (tmp_path / "self").mkdir()
    assert stacks.workers(tmp_path) == {9: None, 10: "3"}


def test_nobody_to_ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(stacks, "workers", lambda: {os.getpid(): None})
    assert stacks.main() == 1
    assert capsys.readouterr().out.startswith("no process here answers SIGUSR1: ")


def test_a_handler_of_the_script_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def mine(*_: object) -> None: ...

    before = signal.signal(signal.SIGUSR1, mine)
    try:
        assert not stacks.answer_signal()
        assert signal.getsignal(signal.SIGUSR1) is mine
    finally:
        signal.signal(signal.SIGUSR1, before)
