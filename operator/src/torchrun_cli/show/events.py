"""The table of events."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from torchrun_cli.show.style import PLAIN, Paint, cleaned
from torchrun_cli.show.table import table
from torchrun_cli.show.times import duration, moment

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


def event_time(event: dict[str, Any]) -> datetime | None:
    """Return when an event happened last. None: it does not say."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    for found in (*times, event.get("firstTimestamp"), (event.get("metadata") or {}).get("creationTimestamp")):
        if (when := moment(found)) is not None:
            return when
    return None


def in_order(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events from the oldest to the newest. Those of one second have the order of their versions."""

    def key(event: dict[str, Any]) -> tuple[float, int]:
        when = event_time(event)
        version = str((event.get("metadata") or {}).get("resourceVersion") or "")
        return (when.timestamp() if when is not None else 0.0, int(version) if version.isdigit() else 0)

    return sorted(events, key=key)


def event_table(
    events: Iterable[dict[str, Any]], now: datetime, *, paint: Paint = PLAIN, width: int | None = None
) -> list[str]:
    """Return the lines of the table, from the oldest event to the newest."""
    rows = [event_row(event, now, paint) for event in in_order(events)]
    return table(["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"], rows, paint=paint, width=width)


def event_row(event: dict[str, Any], now: datetime, paint: Paint = PLAIN) -> list[str]:
    """Return the cells of one event."""
    event = cleaned(event)
    when, about = event_time(event), event.get("involvedObject") or {}
    kind = event.get("type") or "Normal"
    seen = duration((now - when).total_seconds()) if when is not None else "-"
    count = max(event.get("count") or 1, (event.get("series") or {}).get("count") or 1)
    return [
        f"{seen} (x{count})" if count > 1 else seen,
        paint.warn(kind) if kind != "Normal" else kind,
        event.get("reason") or "",
        f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}",
        " ".join((event.get("message") or "").split()),
    ]


def event_line(event: dict[str, Any], paint: Paint = PLAIN) -> str:
    """Return an event in one line, for a stream of them: with its time, because the line stays."""
    when = event_time(event)
    _, *cells = event_row(event, when or _NEVER, paint)
    return "  ".join([when.strftime("%H:%M:%S") if when is not None else "        ", *cells])
