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


def environment(restarts: int) -> dict[str, str]:
    """Return the environment for that command.

    Restarted workers need a store of their own: in the agent's they would read the addresses of their predecessors.
    Workers that start once use the agent's, which is up already: the port that an agent chooses for the other can be
    taken by another process while the workers import torch.
    """
    return {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1" if restarts else "0"}


@contextlib.contextmanager
def torchrun(script: Sequence[str], workers: int, restarts: int) -> Iterator[subprocess.Popen[str]]:
    """Run a script with that many workers and its output in a pipe. It ends with the block."""
    with subprocess.Popen(
        command(script, workers, restarts), stdout=subprocess.PIPE, text=True, env=environment(restarts)
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
        env=environment(restarts=0),
        timeout=_SECONDS,
    ).stdout
