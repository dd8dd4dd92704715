"""torchft's lighthouse, where the job recovers step by step: it tells the nodes who takes the next step."""

from __future__ import annotations

import os
from typing import Any

HEARTBEAT_MILLISECONDS = 500
"""A node that is silent for this long takes no part in the next step. It comes back as a newcomer does."""
JOIN_MILLISECONDS = 60_000
"""How long the others wait for a node that is heard. torchft: longer than a recovery, or the world splits."""
TICK_MILLISECONDS = 20


class MissingError(Exception):
    """The image lacks torchft."""


def open_lighthouse(port: int, groups: int) -> Any:  # noqa: ANN401 - torchft has no types
    """Serve as long as the returned object lives; ``groups`` must be there for a step. Raises MissingError."""
    os.environ.setdefault("RUST_LOG", "error")  # otherwise several lines per step
    try:
        from torchft.coordination import LighthouseServer  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError as error:
        raise MissingError(
            f"spec.faultTolerance.mode PerStep needs torchft, which the image lacks ({error}): add "
            "pip install torchft to the image, or write Restart"
        ) from None
    return LighthouseServer(f"[::]:{port}", groups, JOIN_MILLISECONDS, TICK_MILLISECONDS, HEARTBEAT_MILLISECONDS)
