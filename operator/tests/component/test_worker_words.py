"""The errors of failed workers with real torchrun: in the log of the pod, and in the termination message."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from torchrun_operator.core.facts.words import of_log, of_termination

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(300)]

SCRIPT = """
import os, sys, time
import torch, torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

def main():
    dist.init_process_group("gloo")
    dist.barrier()
    if dist.get_rank() == 1:
        {failure}
    dist.barrier()

{decorator}
def entry():
    main()

entry()
"""
RAISES = 'raise ValueError("the loss is a banana")'
DIES = "os.kill(os.getpid(), 9)"
ENDS = "os._exit(3)"


def torchrun(directory: Path, failure: str, *, recorded: bool, restarts: int) -> "subprocess.Popen[str]":
    """Start an agent with two workers, with the settings of a pod that matter here."""
    script = directory / "train.py"
    script.write_text(SCRIPT.format(failure=failure, decorator="@record" if recorded else ""))
    environment = {
        "PET_NNODES": "1",
        "PET_NPROC_PER_NODE": "2",
        "PET_RDZV_BACKEND": "c10d",
        "PET_RDZV_ENDPOINT": "127.0.0.1:0",
        "PET_MONITOR_INTERVAL": "0.1",
        "PET_MAX_RESTARTS": str(restarts),
        "TORCHELASTIC_ERROR_FILE": str(directory / "termination-log"),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    command = [sys.executable, "-m", "torch.distributed.run", str(script)]
    return subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(agent: "subprocess.Popen[str]") -> None:
    """Kill the agent and its workers, which have sessions of their own."""
    for pid in [agent.pid, *_descendants(agent.pid)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *_descendants(child)]
    return found


def until_failure(agent: "subprocess.Popen[str]", log: list[str]) -> None:
    """Collect the agent's output as Kubernetes returns it, until the agent reports the failure."""
    assert agent.stdout is not None
    for line in agent.stdout:
        log.append(f"{datetime.now(UTC).isoformat().replace('+00:00', 'Z')} {line}")
        if "failed (exitcode:" in line:
            return


@pytest.mark.parametrize(
    ("failure", "message", "exit_code", "recorded"),
    [
        (RAISES, "ValueError: the loss is a banana", 1, False),
        (RAISES, "ValueError: the loss is a banana", 1, True),
        (DIES, "", -9, False),
        (ENDS, "", 3, False),
    ],
    ids=["raises", "raises under record", "is killed", "exits"],
)
def test_workers_restarted_in_place_leave_their_words_in_the_log(
    tmp_path: Path, failure: str, message: str, exit_code: int, recorded: bool
) -> None:
    log: list[str] = []
    with torchrun(tmp_path, failure, recorded=recorded, restarts=1_000_000) as agent:
        watchdog = threading.Timer(200, end, (agent,))
        watchdog.start()
        try:
            until_failure(agent, log)
            # Workers that restart in place write no error file for the agent, with or without `record`.
            assert not (tmp_path / "termination-log").exists()
        finally:
            end(agent)
            agent.communicate()
            watchdog.cancel()
    found = of_log("".join(log))
    assert found is not None, "".join(log)
    assert (found.message, found.exit_code, found.local_rank) == (message, exit_code, 1), "".join(log)
    if message:
        assert found.rank == 1
        assert 'raise ValueError("the loss is a banana")' in found.traceback


def test_an_agent_that_ends_by_an_exception_leaves_it_in_its_termination_message(tmp_path: Path) -> None:
    with torchrun(tmp_path, RAISES, recorded=True, restarts=0) as agent:
        watchdog = threading.Timer(200, end, (agent,))
        watchdog.start()
        agent.communicate()
        watchdog.cancel()
    ended = of_termination((tmp_path / "termination-log").read_text())
    assert (agent.returncode, ended.message) == (1, "ValueError: the loss is a banana")
    assert 'raise ValueError("the loss is a banana")' in ended.traceback
