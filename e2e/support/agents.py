"""Runs torchrun's agent on this computer, for tests of scripts."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

_SECONDS = 240.0


def command(script: Sequence[str], workers: int, restarts: int) -> list[str]:
    """Return the command that runs a script with that many workers."""
    agent = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"]
    return [*agent, f"--max-restarts={restarts}", "--monitor-interval=0.1", *script]


def environment() -> dict[str, str]:
    """Return the environment for that command."""
    # Otherwise restarted workers would read the addresses of their predecessors in the shared store of the agents.
    return {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


@contextlib.contextmanager
def torchrun(script: Sequence[str], workers: int, restarts: int) -> Iterator[subprocess.Popen[str]]:
    """Run a script with that many workers and its output in a pipe. It ends with the block."""
    with subprocess.Popen(
        command(script, workers, restarts), stdout=subprocess.PIPE, text=True, env=environment()
    ) as agent:
        try:
            yield agent
        finally:
            agent.terminate()


def output(script: Sequence[str], workers: int) -> str:
    """Run a script to its end and return its output. Raises if it fails or takes too long."""
    return subprocess.run(
        command(script, workers, restarts=0),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment(),
        timeout=_SECONDS,
    ).stdout
