"""The watchdog in real processes: when it writes, what it writes, and what a step costs."""

import os
import re
import subprocess
import sys
import timeit

import pytest
import torch

from torchrun_trainer.watch.straggler import Stragglers
from torchrun_trainer.watch.watchdog import _LOOK_SECONDS, SHARE, Watchdog


def stderr_of(script: str) -> list[str]:
    """Run a script that has a `watchdog` of rank 3 with 7 steps done; return its standard error."""
    head = "import ctypes, threading, time\nfrom torchrun_trainer.watch.watchdog import Watchdog\n"
    head += "watchdog = Watchdog(3, 7)\n"
    done = subprocess.run([sys.executable, "-c", head + script], capture_output=True, text=True, timeout=60, check=True)
    return done.stderr.splitlines()


def test_a_rank_that_stands_still_is_told_once_and_again_after_a_step() -> None:
    lines = stderr_of(
        "watchdog.deadline = 2.0\n"
        "def stuck_here(): threading.Event().wait(3.5)\n"
        "stuck_here()\n"
        "watchdog.alive(8)\n"
        "stuck_here()\n"
        "watchdog.close()\n"
    )
    assert all(line.startswith("[rank 3] ") for line in lines)
    heads = [line for line in lines if " all threads:" in line]
    assert [re.sub(r"\d+ s|process \d+", "#", line) for line in heads] == [
        "[rank 3] no step for # after step 7; #, all threads:",
        "[rank 3] no step for # after step 8; #, all threads:",
    ]
    assert sum("in stuck_here" in line for line in lines) == 2


@pytest.mark.parametrize(
    "script",
    [
        "threading.Event().wait(4)\n",
        "watchdog.deadline = 600\nthreading.Event().wait(4)\n",
        "watchdog.deadline = 4\nfor n in range(40): watchdog.alive(n); threading.Event().wait(0.1)\n",
    ],
    ids=["no deadline", "a long one", "steps are made"],
)
def test_nothing_is_said_without_a_reason(script: str) -> None:
    assert stderr_of(f"{script}watchdog.close()\n") == []


def test_native_code_that_keeps_pythons_lock_is_seen_too() -> None:
    lines = stderr_of(
        "watchdog.deadline = 4.0\n"
        "threading.Event().wait(1.5)\n"
        "def stuck_in_native_code(): ctypes.PyDLL(None).sleep(8)\n"
        "stuck_in_native_code()\n"
        "watchdog.alive(8)\n"
        "watchdog.close()\n"
    )
    assert any(line.startswith("Timeout (0:00:0") for line in lines)
    assert any("in stuck_in_native_code" in line for line in lines)


def test_it_speaks_before_the_deadline_has_passed() -> None:
    """The collector counts from a report that is at most a tenth of the deadline older than the last step."""
    shortest = 10.0
    assert SHARE * shortest + _LOOK_SECONDS < shortest - shortest / 10


def test_what_watches_the_steps_costs_less_than_50_microseconds_a_step() -> None:
    watchdog, stragglers = Watchdog(0, 0), Stragglers(2, torch.device("cpu"))

    def step() -> None:
        stragglers._forward_done()
        stragglers.arrived()
        stragglers.due()
        stragglers.agreed()
        watchdog.alive(1)

    cost = min(timeit.repeat(step, number=1000, repeat=20)) / 1000
    watchdog.close()
    assert cost < 50e-6


def test_it_leaves_no_thread_and_no_timer(capfd: pytest.CaptureFixture[str]) -> None:
    watchdog = Watchdog(0, 0)
    watchdog.deadline = 2.0
    watchdog._look(watchdog._moved + 0.1)
    watchdog.close()
    assert not watchdog._thread.is_alive()
    os.write(2, b"still here\n")
    assert capfd.readouterr().err == "still here\n"
