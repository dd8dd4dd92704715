"""Back-off: a node whose pods end again and again soon after their start is replaced later each time.

The status keeps the count and the times, so that a restarted operator continues. All times are the operator's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from torchrun_operator.api.base import rfc3339
from torchrun_operator.api.v1alpha1 import BackOff
from torchrun_operator.core.facts.model import LIVE, Facts, NodePod, Phase
from torchrun_operator.core.findings.losses import Loss, Losses
from torchrun_operator.core.findings.wanted import Wanted
from torchrun_operator.core.phrases import counted

_HEALTHY_AFTER = timedelta(seconds=60)
"""A pod whose trainer container has run for this long has started well: the count begins again."""
_MEMBER_HEALTHY_AFTER = timedelta(seconds=15)
"""The same of a member of a round that something deletes: it did not end by itself."""
_FIRST_WAIT = timedelta(seconds=5)
_LONGEST_WAIT = timedelta(minutes=5)
"""As for containers that a kubelet restarts."""


@dataclass(frozen=True)
class BackOffs:
    """The nodes whose pods ended soon after their start, and which of them wait."""

    nodes: Mapping[int, BackOff]
    """By index."""
    held: Mapping[int, datetime]
    """The nodes that are replaced later, by index, and when."""
    later: tuple[datetime, ...] = ()
    """When a wait ends, or a count begins again."""


NO_BACK_OFF = BackOffs({}, {})


def back_off(facts: Facts, wanted: Wanted, lost: Losses) -> BackOffs:
    """Return which nodes wait for their replacement."""
    pods = {node.index: node for node in facts.nodes}
    losses = {loss.index: loss for loss in (*lost.nodes, *lost.spares)}
    if facts.job.spec.static and lost.nodes:  # all nodes end with it, and the others wait for the lead
        losses = {0: lost.nodes[0]}
        pods.pop(0, None)
    known = {node.index: node.back_off for node in facts.job.status.nodes if node.index < wanted.pods}
    found = {
        index: _after_loss(known.get(index), losses[index], facts.now)
        if index in losses
        else _without_loss(known[index], pods.get(index), facts.now)
        for index in sorted({*known, *losses})
    }
    nodes = {index: entry for index, entry in found.items() if entry is not None}
    held = {index: entry.retry_time for index, entry in nodes.items() if _waits(entry, pods.get(index), facts.now)}
    resets = [entry.running_since + _HEALTHY_AFTER for entry in nodes.values() if entry.running_since is not None]
    return BackOffs(nodes, held, (*held.values(), *resets))


def wait_after(failures: int) -> timedelta:
    """Return how long the replacement waits after so many pods in a row that ended soon after their start.

    The first one is replaced at once, later ones after 5, 10, 20… and at most 300 s.
    """
    if failures < 2:
        return timedelta(0)
    doubled: int = 2 ** min(failures - 2, 16)
    return min(_LONGEST_WAIT, _FIRST_WAIT * doubled)


def waiting_words(entry: BackOff) -> str:
    """Describe how often the pods of a node ended, and how long the replacement of the last one waits."""
    return f"{_often(entry)}, so its replacement waits {wait_after(entry.failures).total_seconds():.0f} s"


def absence_of(entry: BackOff, how: str) -> str:
    """Return why a node that waits is absent, for people. ``how`` its last pod ended, if it is still there."""
    return f"{how or 'ended'}, {_often(entry)}; the operator replaces it at {rfc3339(entry.retry_time)}"


def starting_again(entry: BackOff) -> str:
    """Return when all nodes of a static job start again, for people."""
    return f"the nodes ended {_often(entry)}; the operator starts all again at {rfc3339(entry.retry_time)}"


def _often(entry: BackOff) -> str:
    return f"{counted(entry.failures, 'time')} in a row within a minute of the start"


def _after_loss(known: BackOff | None, loss: Loss, now: datetime) -> BackOff:
    taken_away = loss.rank is not None and loss.exit is None
    before = 0 if known is None or _is_healthy(known.running_since, now, taken_away=taken_away) else known.failures
    return BackOff(failures=before + 1, retry_time=now + wait_after(before + 1))


def _without_loss(known: BackOff | None, node: NodePod | None, now: datetime) -> BackOff | None:
    """Return the entry of a node that was not lost now. None: it needs none, or its pod runs well."""
    if known is None or node is None or node.phase not in (Phase.RUNNING, Phase.SUCCEEDED):
        return known
    if node.phase is Phase.SUCCEEDED or _is_healthy(known.running_since, now):
        return None
    return known.model_copy(update={"running_since": known.running_since or now})


def _is_healthy(since: datetime | None, now: datetime, *, taken_away: bool = False) -> bool:
    enough = _MEMBER_HEALTHY_AFTER if taken_away else _HEALTHY_AFTER
    return since is not None and not since <= now < since + enough  # or the clock was set back


def _waits(entry: BackOff, node: NodePod | None, now: datetime) -> bool:
    if node is not None and node.phase in LIVE:
        return False
    return now < entry.retry_time <= now + _LONGEST_WAIT  # else the clock was set back
