"""The figures of a run: a document for programs, and its table."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.recovery.faults import Fault
from bench.recovery.systems import System

Document = dict[str, Any]
_HEAD = (
    "fault",
    "system",
    "times",
    "next step",
    "full size",
    "steps lost",
    "rounds",
    "longest pause",
    "goodput",
)


def document(
    faults: Iterable[Fault],
    systems: Sequence[System],
    machine: Mapping[str, Any],
    versions: Mapping[str, str],
    limit: float,
) -> Document:
    """Return a document without repetitions."""
    return {
        "machine": dict(machine),
        "versions": dict(versions),
        "limit_seconds": limit,
        "faults": {fault.name: fault.title for fault in faults},
        "systems": {system.name: system.title for system in systems},
        "cannot": {system.name: dict(system.cannot) for system in systems},
        "shrinks": {system.name: dict(system.shrinks) for system in systems},
        "repetitions": [],
    }


def write(path: Path, content: Document) -> None:
    """Write a document atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    repetitions = ",\n".join(f"  {json.dumps(record)}" for record in content["repetitions"])
    rest = json.dumps({key: value for key, value in content.items() if key != "repetitions"}, indent=1)
    # One line each, for readable diffs.
    partial.write_text(f'{rest[:-2]},\n "repetitions": [\n{repetitions}\n ]\n}}\n')
    partial.replace(path)


def told(record: Mapping[str, Any]) -> str:
    """Return the result of a repetition as one line."""
    head = f"{record['system']:<12} {record['fault']:<26} {record['repetition']}"
    if "error" in record:
        return f"{head}  {record['error']}"
    seconds = [_seconds(record[key]) for key in ("next_step_seconds", "full_size_seconds", "pause_seconds")]
    not_ready = record.get("not_ready_seconds")
    told_at = "" if not_ready is None else f"  not ready after {not_ready:.1f} s"
    restarts = ", ".join(f"{cause} {count}" for cause, count in record["restarts"].items() if count)
    memory = f"  {record['node_mib']} MiB, first process {record['first_process_mib']}" if "node_mib" in record else ""
    return (
        f"{head}  next step {seconds[0]}, full size {seconds[1]}, longest pause {seconds[2]}, "
        f"steps lost {record['steps_lost']}, rounds {record['rounds']}{told_at}{memory}  {restarts}"
    )


def facts_told(content: Document) -> str:
    """Return the conditions of the run as one paragraph."""
    machine, versions = content["machine"], content["versions"]
    return (
        f"Measured on {content['started'][:10]} on one computer: {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_gib']:g} GiB, Linux {machine['kernel']}, load {machine['load_before']:g} before the run. "
        f"torchrun-operator {versions['torchrun-operator']}, training-operator {versions['training-operator']}, "
        f"torch {versions['torch']}, Kubernetes {versions['kubernetes']}. "
        f"A job counts as not recovered after {content['limit_seconds']:.0f} s."
    )


def table(content: Document) -> str:
    """Return the figures as a Markdown table: the median, and the worst in parentheses."""
    rows = [_HEAD, tuple("---" for _ in _HEAD)]
    measured = {one["fault"] for one in content["repetitions"]}
    for fault, title in content["faults"].items():
        if fault not in measured:
            continue
        shown = title
        for system, name in content["systems"].items():
            mine = [one for one in content["repetitions"] if (one["system"], one["fault"]) == (system, fault)]
            reason = content["cannot"][system].get(fault)
            if mine or reason:
                cells = _cells(mine, content, system, fault) if mine else ("0", f"not measured: {reason}", *[""] * 5)
                rows.append((shown, name, *cells))
                shown = ""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cells(records: Sequence[Mapping[str, Any]], content: Document, system: str, fault: str) -> tuple[str, ...]:
    limit = content["limit_seconds"]
    full = (
        f"never: {content['shrinks'][system][fault]}"
        if fault in content["shrinks"][system]
        else _spread(records, "full_size_seconds", ".1f", limit, " s")
    )
    return (
        str(len(records)),
        _spread(records, "next_step_seconds", ".1f", limit, " s"),
        full,
        _spread(records, "steps_lost", "g", None),
        _spread(records, "rounds", "g", None),
        _spread(records, "pause_seconds", ".1f", limit, " s"),
        _spread([_percent(record) for record in records], "goodput", ".0f", None, " %", worst=min),
    )


def _percent(record: Mapping[str, Any]) -> Mapping[str, Any]:
    goodput = record.get("goodput")
    return {"goodput": None if goodput is None else 100 * goodput}


def _spread(
    records: Sequence[Mapping[str, Any]],
    key: str,
    form: str,
    limit: float | None,
    unit: str = "",
    worst: Any = max,  # noqa: ANN401 - max or min
) -> str:
    """Format median and worst. With a limit, a missing value counts as longer than the limit."""
    values = [record.get(key) for record in records]
    missing = math.inf if limit is not None else None
    known = [value if value is not None else missing for value in values]
    numbers = [value for value in known if value is not None]
    if not numbers:
        return "-"
    median, extreme = (
        f"> {limit:.0f}" if math.isinf(value) else format(value, form)
        for value in (statistics.median(numbers), worst(numbers))
    )
    failed = sum(1 for value in values if value is None and limit is not None)
    note = f"; {failed} of {len(values)} not" if 0 < failed < len(values) else ""
    return f"{median}{unit} ({extreme}{unit}{note})"


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"
