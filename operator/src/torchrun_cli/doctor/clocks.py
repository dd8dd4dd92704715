"""Whether the clocks of this computer, the API server and the Kubernetes nodes agree."""

from collections.abc import Iterator
from typing import Final, Protocol

from torchrun_cli.doctor.findings import Finding, Level, Seen, many, ok
from torchrun_cli.show.times import duration, moment

_SKEW: Final = 3.0
"""Seconds. The times that are compared have whole seconds, and requests take some."""


_LATE: Final = 15.0
"""Seconds. A kubelet gives up a request after 10 s."""


class HasSeen(Protocol):
    """Any case."""

    @property
    def seen(self) -> Seen:
        """What was read."""


def clocks(case: HasSeen, check: str) -> Iterator[Finding]:
    """Say whether clocks differ: of this computer, the API server and the Kubernetes nodes."""
    seen = case.seen
    if seen.server_time is None:
        yield Finding(check, Level.UNKNOWN, "the API server did not say its time")
        return
    off = (seen.now - seen.server_time).total_seconds()
    skews = dict(_node_skews(seen))
    # A lease is received later than it was written, by seconds where the API server is slow.
    skews = {name: 0.0 if -_LATE < seconds < 0 else seconds for name, seconds in skews.items()}
    worst = max(skews, key=lambda name: abs(skews[name]), default=None)
    if worst is not None and abs(skews[worst]) > _SKEW:
        words = f"the clock of the Kubernetes node {worst} is {_apart(skews[worst])} that of the API server"
        yield Finding(check, Level.WARNING, words, "run NTP there: times of the operator and of pods would not agree")
    if abs(off) > _SKEW:
        words = f"the clock of this computer is {_apart(off)} that of the API server"
        yield Finding(check, Level.WARNING, words, "set it: the ages that this program shows are wrong")
    elif worst is None or abs(skews[worst]) <= _SKEW:
        of = f", those of {many(len(skews), 'Kubernetes node')} too" if skews else ""
        yield ok(check, f"this computer and the API server agree within {_SKEW:.0f} s{of}")


def _node_skews(seen: Seen) -> Iterator[tuple[str, float]]:
    """Yield how far the clock of each Kubernetes node is ahead.

    A kubelet writes its time into its lease, and the API server notes when it received that.
    """
    for lease in seen.get("leases"):
        said = moment((lease.get("spec") or {}).get("renewTime"))
        received = [moment(each.get("time")) for each in lease["metadata"].get("managedFields") or ()]
        times = [each for each in received if each is not None]
        if said is not None and times:
            yield lease["metadata"]["name"], (said - max(times)).total_seconds()


def _apart(seconds: float) -> str:
    return f"{duration(abs(seconds))} {'ahead of' if seconds > 0 else 'behind'}"
