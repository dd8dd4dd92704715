"""The one clock of this process: set once from the date, then monotonic. A change of the date does not make it jump."""

from __future__ import annotations

import time

_EPOCH = time.time() - time.monotonic()


def now() -> float:
    """Return seconds since the epoch."""
    return _EPOCH + time.monotonic()
