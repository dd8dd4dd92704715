"""One-line messages in the log of the node."""

from __future__ import annotations

import os


def log(message: str, process: int | None = None) -> None:
    """Write one line to stderr, or to the stderr of another process.

    The server writes to the stderr of the process that it watches: readers of a shim's stderr must not wait for the
    server to exit.
    """
    try:
        file = os.open(f"/proc/{process}/fd/2", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC) if process else os.dup(2)
    except OSError:
        return
    try:
        os.write(file, f"torchrun-operator: {message}\n".encode())
    except OSError:
        pass
    finally:
        os.close(file)
