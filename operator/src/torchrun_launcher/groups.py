"""Replica groups: torchrun's agent lets its workers go on when other nodes come and go.

torchrun's agent restarts its workers whenever the membership changes. Where a job recovers step by step, the workers of
a node are a world of their own, and agree with those of other nodes on each step. The agent then joins the next round
as before, which tells the operator who is there, but leaves its workers alone.
"""

from __future__ import annotations

import copy
import functools
import socket
from contextlib import closing

from torch.distributed.elastic.agent.server import api, local_elastic_agent

from torchrun_launcher.log import log

TYPE_CHECKING = False  # the module typing is slow to import
if TYPE_CHECKING:
    from typing import Any


def install() -> None:
    """Change torchrun's agent in this process. Raises AttributeError if this torch is unknown."""
    agent: Any = local_elastic_agent.LocalElasticAgent
    original = agent._start_workers  # noqa: SLF001 - torch has no public way
    restart = agent._restart_workers  # noqa: SLF001
    for name in ("_rendezvous", "_monitor_workers"):
        getattr(agent, name)

    @functools.wraps(original)
    def start_workers(self: Any, worker_group: Any) -> dict[int, Any]:  # noqa: ANN401
        started: dict[int, Any] = original(self, own_world(worker_group))
        return started

    @functools.wraps(restart)
    def restart_workers(self: Any, worker_group: Any) -> None:  # noqa: ANN401
        if worker_group.state == api.WorkerState.HEALTHY:
            rejoin(self, worker_group)
        else:
            restart(self, worker_group)

    agent._start_workers, agent._restart_workers = start_workers, restart_workers  # noqa: SLF001


def own_world(worker_group: Any) -> Any:  # noqa: ANN401
    """Return the group with ranks and an address for workers that form a world of their own."""
    own = copy.copy(worker_group)
    size = len(worker_group.workers)
    own.group_rank, own.group_world_size = 0, 1
    own.workers = [api.Worker(n, n, n, size, size) for n in range(size)]
    own.master_addr, own.master_port = "127.0.0.1", free_port()
    return own


def rejoin(agent: Any, worker_group: Any) -> None:  # noqa: ANN401
    """Join the next round, with the workers that run."""
    log("the other nodes have changed; the workers of this node go on")
    ids = [worker.id for worker in worker_group.workers]
    agent._rendezvous(worker_group)  # noqa: SLF001
    for worker, known in zip(worker_group.workers, ids):  # noqa: B905 - the numbers are equal
        worker.id = known
    worker_group.state = api.WorkerState.HEALTHY


def free_port() -> int:
    """Return a free port for the store of the workers."""
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port
