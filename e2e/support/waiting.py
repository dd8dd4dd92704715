"""Waiting for something to become true."""

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")
_EVERY_SECONDS = 0.25


class NotInTimeError(AssertionError):
    """It did not become true; the message says what, and what was seen last."""


def wait_for(
    what: str, probe: Callable[[], Found | None], seconds: float, *, seen: Callable[[], object] | None = None
) -> Found:
    """Call `probe` until it returns something true and return that; raise NotInTimeError after so many seconds.

    `seen` is asked once, for the message, when time is up.
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
