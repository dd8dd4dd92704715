"""Barrier command: ``python -m torchrun_trainer.barrier``, which goes before torchrun.

With ``--stay-open`` a process of its own keeps the barrier open for as long as the program that called the command
lives. A node that is replaced later then passes at once, even node 0.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence

from torchrun_trainer.launch.barrier import PORT, RANK_VARIABLES, node_options
from torchrun_trainer.launch.barrier_protocol import BarrierError, BarrierTimeoutError, Node

TIMED_OUT = 124


def _stay_open(node: Node, caller: int) -> None:
    """Keep the barrier open in a process of its own until the program that called this command has ended."""
    if os.fork():
        return
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)  # otherwise a pipe that this command writes to would never end
    os.chdir("/")

    async def stay() -> None:
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(os.pidfd_open(caller), ended.set)
        tasks = [asyncio.create_task(node.stay()), asyncio.create_task(ended.wait())]
        await asyncio.wait(tasks, return_when="FIRST_COMPLETED")

    with contextlib.suppress(Exception):
        asyncio.run(stay())
    os._exit(0)


def _write(text: str) -> None:
    sys.stderr.write(f"barrier: {text}\n")
    sys.stderr.flush()


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    description = (
        "Hold this node until all nodes of the job have arrived. Run it on every node, with the same arguments."
    )
    parser = argparse.ArgumentParser("python -m torchrun_trainer.barrier", description=description)
    parser.add_argument("--num-nodes", "--num_nodes", type=int, help="nodes to wait for (default: PET_NNODES)")
    parser.add_argument("--connect", metavar="HOST[:PORT]", help=f"node 0 (default: the operator's; port {PORT})")
    parser.add_argument("--rank", type=int, help=f"of this node, from 0 (default: {', '.join(RANK_VARIABLES)})")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds; then exit with 124 (default: 1800)")
    parser.add_argument(
        "--stay-open",
        action=argparse.BooleanOptionalAction,
        default="TORCHRUN_JOB_NAME" in os.environ,
        help="let later nodes pass at once while the caller lives (default: in a pod of the operator)",
    )
    found = parser.parse_args(arguments)
    if found.stay_open and not hasattr(os, "pidfd_open"):
        parser.error("--stay-open needs Linux")
    try:
        found.node = node_options(found.num_nodes, found.connect, found.rank)
    except ValueError as error:
        parser.error(str(error))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0, 1 if this node cannot take part, 124 after the timeout."""
    caller = os.getppid()
    options = _arguments(arguments)
    node = Node(options.node)
    try:
        asyncio.run(node.pass_through(options.timeout, _write))
    except BarrierTimeoutError as error:
        _write(str(error))
        return TIMED_OUT
    except BarrierError as error:
        _write(str(error))
        return 1
    if options.stay_open:
        _stay_open(node, caller)
    return 0
