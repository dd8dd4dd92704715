"""The table of jobs."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from torchrun_cli.show.style import PLAIN, Paint, cleaned
from torchrun_cli.show.table import table
from torchrun_cli.show.times import age

_TITLES = ("NAME", "STATE", "NODES", "WORKERS", "STEP", "RESTARTS", "AGE", "MESSAGE")


def job_table(
    jobs: Iterable[dict[str, Any]],
    now: datetime,
    *,
    namespaces: bool = False,
    paint: Paint = PLAIN,
    width: int | None = None,
) -> list[str]:
    """Return the lines of the table of jobs, by namespace and name. ``namespaces``: the first column names them."""
    ordered = sorted(jobs, key=lambda job: (job["metadata"]["namespace"], job["metadata"]["name"]))
    rows = [
        [*([job["metadata"]["namespace"]] if namespaces else []), *_row(job, now, paint, short=width is not None)]
        for job in map(cleaned, ordered)
    ]
    return table([*(["NAMESPACE"] if namespaces else []), *_TITLES], rows, paint=paint, width=width)


def _row(job: dict[str, Any], now: datetime, paint: Paint, *, short: bool) -> list[str]:
    status, metadata = job.get("status") or {}, job["metadata"]
    membership, progress = status.get("membership") or {}, status.get("progress") or {}
    state = "Terminating" if metadata.get("deletionTimestamp") else status.get("state") or "Pending"
    message = status.get("message") or ""
    return [
        metadata["name"],
        paint.state(state),
        membership.get("summary") or f"0/{(job.get('spec') or {}).get('nnodes', '')}",
        _number(membership.get("worldSize")),
        _steps(progress),
        _number(status.get("restartCount")),
        age(metadata.get("creationTimestamp"), now),
        message.partition("; ")[0] if short else message,
    ]


def _number(value: object) -> str:
    return "-" if value is None else str(value)


def _steps(progress: dict[str, Any]) -> str:
    step, total = progress.get("step"), progress.get("totalSteps")
    if step is None:
        return "-"
    return f"{step}/{total}" if total else str(step)
