"""Moments and durations, in the short form of kubectl."""

import re
from datetime import UTC, datetime
from itertools import pairwise

from torchrun_cli.errors import CliError, Exit

_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def moment(text: object) -> datetime | None:
    """Read a time of Kubernetes: RFC 3339, with or without a fraction. None: it is none."""
    if not isinstance(text, str) or not text:
        return None
    whole, dot, rest = text.replace("Z", "+00:00").partition(".")
    if dot:  # nanoseconds are too fine for datetime
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        whole += f".{digits[:6].ljust(6, '0')}{rest[len(digits) :]}"
    try:
        found = datetime.fromisoformat(whole)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def duration(seconds: float) -> str:
    """Return a duration with its two largest units: `45s`, `3m5s`, `2h`, `4d3h`."""
    left = max(0, int(seconds))
    for (size, unit), (smaller, small_unit) in pairwise(_UNITS):
        if left >= size:
            rest = (left % size) // smaller
            # Like kubectl: the smaller unit is left out where it says little.
            return f"{left // size}{unit}" + (f"{rest}{small_unit}" if rest and left < 10 * size else "")
    return f"{left}s"


def age(since: object, now: datetime) -> str:
    """Return how long ago a time of Kubernetes was. It is `-` if there is none."""
    found = moment(since)
    return duration((now - found).total_seconds()) if found is not None else "-"


def seconds_of(text: str) -> float:
    """Read a duration such as `90s`, `5m`, `1h30m` or `2d`. Raises CliError if it is none."""
    found = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?", text)
    if found is None or not text:
        raise CliError(f"{text!r} is no duration: write 90s, 5m or 1h30m", Exit.USAGE)
    sizes = (size for size, _ in _UNITS)
    return sum(float(part) * size for part, size in zip(found.groups(), sizes, strict=True) if part)
