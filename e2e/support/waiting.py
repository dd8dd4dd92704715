"""Waits for a condition."""

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")
_EVERY_SECONDS = 0.25


class NotInTimeError(AssertionError):
    """The condition did not become true in time. The message has the condition and the last state."""


def wait_for(
    what: str, probe: Callable[[], Found | None], seconds: float, *, seen: Callable[[], object] | None = None
) -> Found:
    """Call `probe` until it returns a true value, and return that. Raises NotInTimeError after that many seconds.

    `seen` is called once, for the message of the error.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() >= deadline:
            last = f"; last seen: {seen()}" if seen is not None else ""
            raise NotInTimeError(f"not within {seconds:.0f} s: {what}{last}")
        time.sleep(_EVERY_SECONDS)
