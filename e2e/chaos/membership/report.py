"""The report of a run, as a document and as text. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from chaos.membership.accounts import adds_up, counted, expected, within
from chaos.membership.healthy import healthy_pods_stay, memory_is_bounded
from chaos.membership.pauses import LIMIT_SECONDS, Pause, allowance_of, never_stuck, pauses_of
from chaos.membership.records import Fault, Group, Sample, Snapshot, Start, Step, Violation
from chaos.membership.stretches import (
    Stretch,
    changes_of,
    one_master_at_a_time,
    planned_cost_nothing,
    rounds_agree,
    steps_follow,
    stretches_of,
)

_AROUND_SECONDS = 30.0


@dataclass
class Evidence:
    """All records of a run."""

    seed: int
    began: float
    """When the job was created."""
    ended: float
    starts: Sequence[Start]
    steps: Sequence[Step]
    snapshots: Sequence[Snapshot]
    samples: Sequence[Sample]
    faults: Sequence[Fault]
    groups: Sequence[Group]
    restarts: Mapping[str, int] = field(default_factory=dict)
    asked: int = 0
    """Number of planned faults."""
    further: Sequence[Violation] = ()
    """Violations seen during the run."""


def judged(evidence: Evidence) -> dict[str, Any]:
    """Return the report: figures, and every violation with what was going on then."""
    stretches = stretches_of(evidence.steps)
    changes = changes_of(stretches, evidence.faults)
    allowance = allowance_of(evidence.steps[0].time - evidence.began) if evidence.steps else 0.0
    pauses = pauses_of(evidence.steps, evidence.samples, evidence.faults, evidence.ended, allowance)
    violations = [
        *evidence.further,
        *one_master_at_a_time(stretches),
        *rounds_agree(evidence.starts, evidence.steps),
        *steps_follow(stretches, evidence.snapshots),
        *planned_cost_nothing(changes),
        *never_stuck(pauses),
        *adds_up(evidence.groups),
        *healthy_pods_stay(evidence.samples, evidence.starts, evidence.steps, evidence.faults),
        *memory_is_bounded(evidence.samples),
    ]
    longest = max(pauses, key=lambda pause: pause.ended - pause.began, default=None)
    clock = max(pauses, key=lambda pause: pause.counted, default=None)
    return {
        "seed": evidence.seed,
        "began": _stamp(evidence.began),
        "seconds": round(evidence.ended - evidence.began, 1),
        "faults": {"asked": evidence.asked, "done": len(evidence.faults), "byKind": _by_kind(evidence.faults)},
        "groups": {
            "all": len(evidence.groups),
            "exact": sum(1 for group in evidence.groups if _is_exact(group)),
        },
        "rounds": len({start.master for start in evidence.starts}),
        "stretches": len(stretches),
        "steps": max((step.done for step in evidence.steps), default=0),
        "stepsLost": sum(change.lost for change in changes),
        "stepsLostByPlannedChanges": sum(change.lost for change in changes if change.planned),
        "plannedChanges": sum(1 for change in changes if change.planned),
        "longestPause": None if longest is None else _pause(longest, evidence),
        "longestUnexcusedPause": None if clock is None else _pause(clock, evidence),
        "stuckLimitSeconds": LIMIT_SECONDS,
        "allowanceSeconds": round(allowance, 1),
        "operatorMiB": max((sample.operator_mib for sample in evidence.samples), default=0),
        "restarts": {
            cause: {"counted": count, "fewest": low, "most": high}
            for cause, (count, low, high) in within(evidence.restarts, evidence.groups).items()
        },
        "violations": [_violation(violation, evidence) for violation in sorted(violations, key=lambda v: v.time)],
        "stretchesLog": [_stretch(stretch, evidence) for stretch in stretches],
        "log": [_fault(fault, evidence) for fault in evidence.faults],
        "groupsLog": [
            {"faults": [f.number for f in group.faults], "counted": counted(group), "expected": expected(group)}
            for group in evidence.groups
        ],
    }


def told(report: Mapping[str, Any]) -> str:
    """Return the report for people."""
    faults, restarts = report["faults"], report["restarts"]
    kinds = ", ".join(f"{kind} {count}" for kind, count in faults["byKind"].items())
    lines = [
        f"seed {report['seed']}: {faults['done']} of {faults['asked']} faults in {report['seconds'] / 60:.1f} minutes",
        f"  {kinds}",
        f"{report['rounds']} rounds, {report['steps']} steps, {report['stepsLost']} of them repeated",
        f"{report['plannedChanges']} announced changes, which lost {report['stepsLostByPlannedChanges']} steps",
    ]
    for title, name in (("longest pause", "longestPause"), ("longest unexcused", "longestUnexcusedPause")):
        if report[name]:
            pause = report[name]
            lines.append(f"{title}: {pause['seconds']:.1f} s ({pause['unexcused']:.1f} s unexcused) at {pause['at']}")
    lines.append(f"the operator needed at most {report['operatorMiB']} MiB")
    lines.append(
        "restarts: "
        + ", ".join(f"{cause} {of['counted']} ({of['fewest']} to {of['most']})" for cause, of in restarts.items())
        + f"; {report['groups']['exact']} of {report['groups']['all']} groups of faults counted exactly"
    )
    for violation in report["violations"]:
        lines.append(f"VIOLATION {violation['at']} {violation['rule']}: {violation['what']}")
        lines += [f"    {around}" for around in violation["around"]]
    lines.append(f"{len(report['violations'])} violations")
    return "\n".join(lines)


def told_fault(fault: Fault, began: float) -> str:
    """Return a line about a fault."""
    return f"{_at(fault.time, began)} #{fault.number} (group {fault.group}) {fault.kind} {fault.target}".rstrip()


def _by_kind(faults: Sequence[Fault]) -> dict[str, int]:
    return dict(sorted(Counter(str(fault.kind) for fault in faults).items()))


def _is_exact(group: Group) -> bool:
    return all(low == high for low, high in expected(group).values())


def _pause(pause: Pause, evidence: Evidence) -> dict[str, Any]:
    return {
        "at": _at(pause.began, evidence.began),
        "seconds": round(pause.ended - pause.began, 1),
        "unexcused": round(pause.counted, 1),
    }


def _violation(violation: Violation, evidence: Evidence) -> dict[str, Any]:
    around = [f for f in evidence.faults if -_AROUND_SECONDS < violation.time - f.until < _AROUND_SECONDS]
    return {
        "at": _at(violation.time, evidence.began),
        "rule": violation.rule,
        "what": violation.what,
        "around": [told_fault(fault, evidence.began) for fault in around],
    }


def _stretch(stretch: Stretch, evidence: Evidence) -> dict[str, Any]:
    return {
        "at": _at(stretch.first.time, evidence.began),
        "until": _at(stretch.last.time, evidence.began),
        "master": stretch.master,
        "workers": stretch.first.world,
        "from": stretch.first.resumed,
        "to": stretch.last.done,
    }


def _fault(fault: Fault, evidence: Evidence) -> dict[str, Any]:
    values = asdict(fault)
    return {**values, "kind": str(fault.kind), "at": _at(fault.time, evidence.began)}


def _at(time: float, began: float) -> str:
    return f"{_stamp(time)} (+{time - began:.1f} s)"


def _stamp(time: float) -> str:
    return datetime.fromtimestamp(time, tz=UTC).strftime("%H:%M:%S.%f")[:-3]
