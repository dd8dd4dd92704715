"""The output of the demo: a line per event, and a live status line below them."""

import os
import sys
import threading
import time
from typing import TextIO

_QUIET_SECONDS = 3.0
"""Time between two status lines if the output is not a terminal."""


class Screen:
    """Prints from several threads. A terminal gets colors and a live line, other outputs get plain lines."""

    def __init__(self, output: TextIO = sys.stdout) -> None:
        self._output = output
        self._live = output.isatty()
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._printed = 0.0
        self._status = ""

    def scene(self, title: str) -> None:
        """Print the heading of a scene."""
        self._print(f"\n{self._styled('1;36', title)}")

    def say(self, text: str) -> None:
        """Print an event with the time since the start of the demo."""
        self._print(f"{self._styled('2', f'{time.monotonic() - self._began:6.1f} s')}  {text}")

    def text(self, text: str) -> None:
        """Print a line unchanged."""
        self._print(text)

    def status(self, text: str) -> None:
        """Show the status: in place on a terminal, at intervals elsewhere."""
        with self._lock:
            if self._live:
                width = os.get_terminal_size(self._output.fileno()).columns
                self._status = f"          {text}"[: max(width - 1, 20)]
                self._write(f"\r\033[K{self._status}")
            elif time.monotonic() - self._printed >= _QUIET_SECONDS:
                self._printed = time.monotonic()
                self._write(f"{time.monotonic() - self._began:6.1f} s    {text}\n")

    def close(self) -> None:
        """Restore the terminal."""
        with self._lock:
            if self._status:
                self._status = ""
                self._write("\r\033[K")

    def good(self, text: str) -> str:
        """Return text in the color of success."""
        return self._styled("32", text)

    def bad(self, text: str) -> str:
        """Return text in the color of failure."""
        return self._styled("31", text)

    def _print(self, text: str) -> None:
        with self._lock:
            if self._live:
                self._write(f"\r\033[K{text}\n{self._status}")
            else:
                self._printed = time.monotonic()
                self._write(f"{text}\n")

    def _write(self, text: str) -> None:
        self._output.write(text)
        self._output.flush()

    def _styled(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._live else text
