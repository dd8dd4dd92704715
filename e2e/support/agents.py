"""Starts torchrun's agent on this machine, for tests of scripts."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence


@contextlib.contextmanager
def torchrun(script: Sequence[str], workers: int, restarts: int) -> Iterator[subprocess.Popen[str]]:
    """Run a script and its arguments with so many workers, its output in a pipe; end it with the block."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"]
    command += [f"--max-restarts={restarts}", "--monitor-interval=0.1", *script]
    # Restarted workers would otherwise meet the addresses of the ones before them in the agents' shared store.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as agent:
        try:
            yield agent
        finally:
            agent.terminate()
