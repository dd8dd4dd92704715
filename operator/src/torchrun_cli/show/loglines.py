"""Lines of many logs in one stream: which pod wrote each of them, in the colour of its node, and which ranks count."""

import re
from typing import Any, Final, NamedTuple

from torchrun_cli.show.job import workers_per_node
from torchrun_cli.show.style import PLAIN, Paint

_WORKER: Final = re.compile(rb"\[(?:rank(?P<rank>\d+)|[A-Za-z_][A-Za-z_.-]*(?P<local>\d+))\]:")
"""Which worker writes: the rank in torch's own tracebacks, or the role and local rank of torchrun --tee."""


def prefixed(pod: str, node: int, text: bytes, *, most: int = 0, paint: Paint = PLAIN) -> bytes:
    """Return a line with the name of its pod before it. ``most``: the length of the longest name."""
    head = paint.node(f"{pod:<{most}} |", node)
    return head.encode() + b" " + text if text else head.encode()


class Ranks(NamedTuple):
    """One rank of a job: the node whose group rank has it, and its local rank there."""

    rank: int
    group_rank: int
    local: int

    def wants(self, text: bytes) -> bool:
        """Whether the rank may have written a line of its node. A line that does not say who wrote it counts."""
        found = _WORKER.match(text)
        if found is None:
            return True
        if found["rank"] is not None:
            return int(found["rank"]) == self.rank
        return int(found["local"]) == self.local


def find_rank(job: dict[str, Any], rank: int) -> Ranks | None:
    """Return where a rank is. None: no round is complete, so that it is unknown."""
    per_node = workers_per_node(job)
    return Ranks(rank, rank // per_node, rank % per_node) if per_node else None


def pods_of_rank(job: dict[str, Any], where: Ranks) -> frozenset[str]:
    """Return the uids of the pods that have this group rank now."""
    nodes = (job.get("status") or {}).get("nodes") or ()
    return frozenset(node["uid"] for node in nodes if node.get("rank") == where.group_rank and node.get("uid"))


def failed_pods(job: dict[str, Any], pods: list[dict[str, Any]]) -> frozenset[str]:
    """Return the uids of the pods that failed, or that the last failure of the job names."""
    last = ((job.get("status") or {}).get("lastFailure") or {}).get("pod")
    return frozenset(pod["metadata"]["uid"] for pod in pods if pod["metadata"]["name"] == last or _has_failed(pod))


def _has_failed(pod: dict[str, Any]) -> bool:
    status = pod.get("status") or {}
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    codes = [((each.get("state") or {}).get("terminated") or {}).get("exitCode", 0) for each in containers]
    return status.get("phase") == "Failed" or any(codes)
