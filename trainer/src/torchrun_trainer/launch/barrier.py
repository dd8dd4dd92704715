"""Barrier: holds the nodes, or the ranks, of a job until all of them have arrived; otherwise names the missing ones.

Importing this module must not import torch, which would cost seconds before torchrun even starts.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping

from torchrun_trainer.launch.barrier_protocol import BarrierError, BarrierTimeoutError, Node, NodeOptions, listed

__all__ = ["PORT", "BarrierError", "BarrierTimeoutError", "barrier", "node_options", "rank_barrier"]

PORT = 29402
RANK_VARIABLES = ("TORCHRUN_NODE_INDEX", "PET_NODE_RANK", "NODE_RANK")


def barrier(
    num_nodes: int | None = None,
    connect: str | None = None,
    rank: int | None = None,
    timeout: float = 1800.0,
    *,
    notice: Callable[[str], object] | None = None,
) -> None:
    """Return once all nodes of the job have called this. Call it once per node, not per worker.

    Args:
        num_nodes: how many nodes to wait for; default: ``PET_NNODES``, of MIN:MAX the MIN (the other nodes may pass
            too, once these have arrived).
        connect: ``HOST`` or ``HOST:PORT`` of node 0, which listens there; default: node 0 of the operator's job,
            port 29402.
        rank: of this node, from 0; default: ``TORCHRUN_NODE_INDEX``, ``PET_NODE_RANK`` or ``NODE_RANK``.
        timeout: seconds.
        notice: called every 30 s with a text about the missing nodes.

    Raises:
        ValueError: an argument is wrong, or is missing and has no default here.
        BarrierTimeoutError: not all nodes arrived in time.
        BarrierError: two nodes have the same rank, nodes disagree on ``num_nodes``, or another program has the port.

    """
    asyncio.run(Node(node_options(num_nodes, connect, rank)).pass_through(timeout, notice))


def rank_barrier(timeout: float = 1800.0, name: str = "barrier") -> None:
    """Return once every rank of the default process group has called this. It uses the store, so any backend will do.

    All ranks must call it equally often under each ``name``. Raises BarrierTimeoutError, which names the missing ranks,
    after ``timeout`` seconds (whole milliseconds), and ValueError without a process group.
    """
    from datetime import timedelta  # noqa: PLC0415 (the command does not need it)

    import torch.distributed as dist  # noqa: PLC0415 (takes seconds, and the command does not need it)
    from torch.distributed import distributed_c10d  # noqa: PLC0415

    if not dist.is_initialized():
        raise ValueError("rank_barrier needs a process group: call torch.distributed.init_process_group() before")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    _rounds[name] = _rounds.get(name, 0) + 1
    whole = distributed_c10d._get_default_store()  # noqa: SLF001 (there is no public way)
    store = distributed_c10d.PrefixStore(f"torchrun_trainer/{name}/{_rounds[name]}", whole)
    store.set(str(rank), "here")
    if store.add("count", 1) == world_size:
        store.set("open", "yes")
    try:
        store.wait(["open"], timedelta(seconds=timeout))
    except RuntimeError as error:  # DistStoreError from torch 2.4 on, for timeouts and lost connections alike
        missing = [other for other in range(world_size) if not store.check([str(other)])]
        if not missing:
            raise
        message = f"timed out after {timeout:g} s: {listed('rank', missing)} of {world_size} did not come"
        raise BarrierTimeoutError(message, missing) from error


_rounds: dict[str, int] = {}


def node_options(
    num_nodes: int | None,
    connect: str | None,
    rank: int | None,
    environment: Mapping[str, str] = os.environ,
) -> NodeOptions:
    """Complete and check the arguments of ``barrier``. Raises ValueError."""
    least = num_nodes is None
    if num_nodes is None:
        num_nodes = _number(environment, "PET_NNODES", cut=":")
    if rank is None:
        names = [name for name in RANK_VARIABLES if name in environment]
        rank = _number(environment, names[0]) if names else None
    if connect is None and "TORCHRUN_JOB_NAME" in environment:
        job = environment["TORCHRUN_JOB_NAME"]
        connect = f"{job}-0.{job}"
    for value, option in ((num_nodes, "--num-nodes"), (connect, "--connect"), (rank, "--rank")):
        if value is None:
            raise ValueError(f"{option} is required: the environment does not set it")
    assert num_nodes is not None
    assert rank is not None
    assert connect is not None
    if num_nodes < 1:
        raise ValueError(f"--num-nodes is {num_nodes}; it must be at least 1")
    if rank < 0 or (rank >= num_nodes and not least):
        raise ValueError(f"--rank is {rank}; with --num-nodes {num_nodes} it must be from 0 to {num_nodes - 1}")
    return NodeOptions(num_nodes, rank, *_address(connect))


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
