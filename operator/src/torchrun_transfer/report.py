"""The result of a container, as the operator reads it from the termination message. Pure but for `tell`."""

import json
from dataclasses import dataclass

TERMINATION_LOG = "/dev/termination-log"
_BYTES = 4096
"""Maximum size of a termination message."""


@dataclass(frozen=True)
class Result:
    """What was transferred, or why not."""

    files: int = 0
    bytes: int = 0
    error: str = ""

    def wire(self) -> str:
        """Return the termination message."""
        message = {"files": self.files, "bytes": self.bytes, **({"error": self.error} if self.error else {})}
        return json.dumps(message)


def tell(result: Result, path: str = TERMINATION_LOG) -> None:
    """Write the termination message."""
    with open(path, "w", encoding="ascii") as file:
        file.write(result.wire()[:_BYTES])
