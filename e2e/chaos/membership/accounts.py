"""Checks that the restarts in the status match the faults. Pure.

Counts are exact if one fault hit a settled job and the job has settled again. They have bounds if several faults
merged. Only faults of a single worker may count as `code`: neither torchrun nor the operator can distinguish a killed
worker from a failed one.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from chaos.membership.plan import OF_HOST, OF_MACHINES, OF_PODS, OF_WORKERS, Kind
from chaos.membership.records import CAUSES, Group, Violation

Bounds = dict[str, tuple[int, int]]


def expected(group: Group) -> Bounds:
    """Return the minimum and maximum of restarts by cause for a group of faults."""
    kinds = Counter(fault.kind for fault in group.faults)
    scalings = sum(1 for fault in group.faults if fault.kind == Kind.SCALE and fault.before != fault.after)
    workers = sum(kinds[kind] for kind in OF_WORKERS) + sum(fault.failures for fault in group.faults)
    wide = any(kinds[kind] for kind in (*OF_HOST, *OF_MACHINES))
    if len(group.faults) == 1 and group.settled and not wide:
        pods = int(any(kinds[kind] for kind in OF_PODS - {Kind.EVICT}))
        exact = {
            "code": workers,
            "infrastructure": pods,
            "preemption": kinds[Kind.EVICT],
            "resize": scalings,
        }
        return {cause: (exact[cause], exact[cause]) for cause in CAUSES}
    certain = group.settled and not scalings
    sure = len(_recorded_hits(group)) if certain else 0
    return {
        "code": (0, workers),
        "infrastructure": (max(0, sure - kinds[Kind.EVICT]), max(group.ended, sure)),
        "preemption": (0, kinds[Kind.EVICT]),
        "resize": (0, scalings),
    }


def _recorded_hits(group: Group) -> set[str]:
    """Return the pods whose end must count once: the status listed them as alive."""
    return {uid for fault in group.faults if fault.kind in OF_PODS for uid in fault.recorded}


def counted(group: Group) -> dict[str, int]:
    """Return the counted restarts of a group of faults, by cause."""
    return {cause: group.after.get(cause, 0) - group.before.get(cause, 0) for cause in CAUSES}


def adds_up(groups: Iterable[Group]) -> list[Violation]:
    """The counts of each group of faults are within their bounds."""
    wrong = []
    for group in groups:
        bounds, found = expected(group), counted(group)
        outside = [cause for cause in CAUSES if not bounds[cause][0] <= found[cause] <= bounds[cause][1]]
        if outside:
            done = ", ".join(f"{fault.kind} {fault.target}".strip() for fault in group.faults)
            differences = ", ".join(f"{cause} {found[cause]}, expected {_told(bounds[cause])}" for cause in outside)
            wrong.append(Violation(group.faults[0].time, "restarts", f"{differences} after: {done}"))
    return wrong


def within(total: Mapping[str, int], groups: Iterable[Group]) -> dict[str, tuple[int, int, int]]:
    """Return the count and the bounds of all groups together, by cause."""
    bounds = [expected(group) for group in groups]
    return {
        cause: (total.get(cause, 0), sum(each[cause][0] for each in bounds), sum(each[cause][1] for each in bounds))
        for cause in CAUSES
    }


def _told(bounds: tuple[int, int]) -> str:
    return str(bounds[0]) if bounds[0] == bounds[1] else f"{bounds[0]} to {bounds[1]}"
