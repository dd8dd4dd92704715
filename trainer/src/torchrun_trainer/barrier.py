"""Barrier: holds the nodes of a job until all of them have come, by name of those who have not.

``python -m torchrun_trainer.barrier`` goes before torchrun, after a long set-up. It needs the standard library only:
importing torch would cost seconds.

A barrier opens once. With ``--stay-open`` each node goes on saying so, from a process of its own, for as long as the
program lives that called the command: a node that is replaced later passes at once, be it node 0 itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from torchrun_trainer.barrier_protocol import BarrierError, BarrierTimeoutError, Node, Place, who

PORT = 29402
TIMED_OUT = 124
_RANK_VARIABLES = ("TORCHRUN_NODE_INDEX", "PET_NODE_RANK", "NODE_RANK")


def barrier(
    num_nodes: int | None = None,
    connect: str | None = None,
    rank: int | None = None,
    timeout: float = 1800.0,
    *,
    notice: Callable[[str], object] | None = None,
) -> None:
    """Return once all nodes of the job have called this; to be called once per node, not per worker.

    Args:
        num_nodes: how many nodes to wait for; default: that of ``PET_NNODES``, of MIN:MAX the MIN (the others may pass
            too, once these have come).
        connect: ``HOST`` or ``HOST:PORT`` of node 0, which listens there; default: node 0 of the operator's
            job, port 29402.
        rank: of this node, from 0; default: ``TORCHRUN_NODE_INDEX``, ``PET_NODE_RANK`` or ``NODE_RANK``.
        timeout: seconds.
        notice: is told every 30 s who is missing.

    Raises:
        ValueError: an argument is wrong, or has no default here.
        BarrierTimeoutError: not all came in time.
        BarrierError: two nodes have one rank, nodes disagree on ``num_nodes``, or the port belongs to something else.

    """
    asyncio.run(Node(place(num_nodes, connect, rank)).pass_through(timeout, notice))


def rank_barrier(timeout: float = 1800.0, name: str = "barrier") -> None:
    """Return once every rank of the default process group has called this; with any backend, since it asks the store.

    To be called equally often by all ranks under each ``name``. Raises BarrierTimeoutError, which names the missing
    ranks, after ``timeout`` seconds (whole milliseconds), and ValueError without a process group.
    """
    from datetime import timedelta  # noqa: PLC0415 - not needed by the command

    import torch.distributed as dist  # noqa: PLC0415 - takes seconds, and the command needs none of it
    from torch.distributed import distributed_c10d  # noqa: PLC0415

    if not dist.is_initialized():
        raise ValueError("rank_barrier needs a process group: call torch.distributed.init_process_group() before")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    _rounds[name] = _rounds.get(name, 0) + 1
    whole = distributed_c10d._get_default_store()  # noqa: SLF001 - there is no public way to it
    store = distributed_c10d.PrefixStore(f"torchrun_trainer/{name}/{_rounds[name]}", whole)
    store.set(str(rank), "here")
    if store.add("count", 1) == world_size:
        store.set("open", "yes")
    try:
        store.wait(["open"], timedelta(seconds=timeout))
    except RuntimeError as error:  # DistStoreError from torch 2.4 on, for time-outs and lost connections alike
        missing = [other for other in range(world_size) if not store.check([str(other)])]
        if not missing:
            raise
        message = f"timed out after {timeout:g} s: {who('rank', missing)} of {world_size} did not come"
        raise BarrierTimeoutError(message, missing) from error


_rounds: dict[str, int] = {}


def place(
    num_nodes: int | None,
    connect: str | None,
    rank: int | None,
    environment: Mapping[str, str] = os.environ,
) -> Place:
    """Complete and check the arguments of ``barrier``; raises ValueError."""
    least = num_nodes is None
    if num_nodes is None:
        num_nodes = _number(environment, "PET_NNODES", cut=":")
    if rank is None:
        names = [name for name in _RANK_VARIABLES if name in environment]
        rank = _number(environment, names[0]) if names else None
    if connect is None and "TORCHRUN_JOB_NAME" in environment:
        job = environment["TORCHRUN_JOB_NAME"]
        connect = f"{job}-0.{job}"
    for value, option in ((num_nodes, "--num-nodes"), (connect, "--connect"), (rank, "--rank")):
        if value is None:
            raise ValueError(f"{option} must be given here: the environment does not say it")
    assert num_nodes is not None
    assert rank is not None
    assert connect is not None
    if num_nodes < 1:
        raise ValueError(f"--num-nodes is {num_nodes}; it must be at least 1")
    if rank < 0 or (rank >= num_nodes and not least):
        raise ValueError(f"--rank is {rank}; with --num-nodes {num_nodes} it must be from 0 to {num_nodes - 1}")
    return Place(num_nodes, rank, *_address(connect))


def _number(environment: Mapping[str, str], name: str, cut: str = "\n") -> int | None:
    text = environment.get(name)
    if text is None:
        return None
    try:
        return int(text.split(cut)[0])
    except ValueError:
        raise ValueError(f"{name} is {text!r} in the environment; it should be a number") from None


def _address(connect: str) -> tuple[str, int]:
    """Split ``HOST``, ``HOST:PORT`` or ``[IPv6]:PORT``; an IPv6 address without a port may go without brackets."""
    host, _, port = connect.rpartition(":")
    if not host or (":" in host and not host.startswith("[")):
        host, port = connect, str(PORT)
    if connect.endswith("]"):
        host, port = connect, str(PORT)
    host = host.strip("[]")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ValueError(f"--connect is {connect!r}; it must be HOST or HOST:PORT")
    return host, int(port)


def _stay_open(node: Node, caller: int) -> None:
    """Go on in a process of its own until the program that called this command has ended."""
    if os.fork():
        return
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)  # or a pipe that this command writes to would never end
    os.chdir("/")

    async def stay() -> None:
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(os.pidfd_open(caller), ended.set)
        tasks = [asyncio.create_task(node.stay()), asyncio.create_task(ended.wait())]
        await asyncio.wait(tasks, return_when="FIRST_COMPLETED")

    with contextlib.suppress(Exception):
        asyncio.run(stay())
    os._exit(0)


def _say(text: str) -> None:
    sys.stderr.write(f"barrier: {text}\n")
    sys.stderr.flush()


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    description = "Hold this node until all nodes of the job have come; run it on every node, with the same arguments."
    parser = argparse.ArgumentParser("python -m torchrun_trainer.barrier", description=description)
    parser.add_argument("--num-nodes", "--num_nodes", type=int, help="nodes to wait for (default: of PET_NNODES)")
    parser.add_argument("--connect", metavar="HOST[:PORT]", help=f"node 0 (default: the operator's; port {PORT})")
    parser.add_argument("--rank", type=int, help=f"of this node, from 0 (default: {', '.join(_RANK_VARIABLES)})")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds; then exit with 124 (default: 1800)")
    parser.add_argument(
        "--stay-open",
        action=argparse.BooleanOptionalAction,
        default="TORCHRUN_JOB_NAME" in os.environ,
        help="let nodes that come later pass at once, while the caller lives (default: in an operator's pod)",
    )
    found = parser.parse_args(arguments)
    if found.stay_open and not hasattr(os, "pidfd_open"):
        parser.error("--stay-open needs Linux")
    try:
        found.place = place(found.num_nodes, found.connect, found.rank)
    except ValueError as error:
        parser.error(str(error))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0, 1 if this node cannot take part, 124 after the time-out."""
    caller = os.getppid()
    options = _arguments(arguments)
    node = Node(options.place)
    try:
        asyncio.run(node.pass_through(options.timeout, _say))
    except BarrierTimeoutError as error:
        _say(str(error))
        return TIMED_OUT
    except BarrierError as error:
        _say(str(error))
        return 1
    if options.stay_open:
        _stay_open(node, caller)
    return 0


if __name__ == "__main__":
    sys.exit(main())
