"""The operator's clock."""

import time
from datetime import UTC, datetime, timedelta


class SteadyClock:
    """Tells the time in UTC: the date at the start of the process, and the time that has passed since.

    A change of the date, such as a correction by NTP, does not make it jump. Time in which a virtual machine is
    suspended counts.
    """

    def __init__(self) -> None:
        self._began = _elapsed()
        self._origin = datetime.now(UTC)

    def __call__(self) -> datetime:
        """Return the time."""
        return self._origin + timedelta(seconds=_elapsed() - self._began)


def _elapsed() -> float:
    if hasattr(time, "CLOCK_BOOTTIME"):  # Linux
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
