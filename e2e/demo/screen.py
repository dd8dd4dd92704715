"""What the demo shows while it runs: what happens as lines, and one line below them that is kept up to date."""

import os
import sys
import threading
import time
from typing import TextIO

_QUIET_SECONDS = 3.0
"""Time between two lines of plain progress where the output is no terminal."""


class Screen:
    """Prints from several threads; a terminal gets colours and a live line, anything else plain lines."""

    def __init__(self, output: TextIO = sys.stdout) -> None:
        self._output = output
        self._live = output.isatty()
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._printed = 0.0
        self._status = ""

    def scene(self, title: str) -> None:
        """Begin a part of the story."""
        self._print(f"\n{self._styled('1;36', title)}")

    def say(self, text: str) -> None:
        """Tell what has just happened, with the time since the demo began."""
        self._print(f"{self._styled('2', f'{time.monotonic() - self._began:6.1f} s')}  {text}")

    def text(self, text: str) -> None:
        """Print as it is."""
        self._print(text)

    def status(self, text: str) -> None:
        """Show how things stand: in place on a terminal, now and then elsewhere."""
        with self._lock:
            if self._live:
                width = os.get_terminal_size(self._output.fileno()).columns
                self._status = f"          {text}"[: max(width - 1, 20)]
                self._write(f"\r\033[K{self._status}")
            elif time.monotonic() - self._printed >= _QUIET_SECONDS:
                self._printed = time.monotonic()
                self._write(f"{time.monotonic() - self._began:6.1f} s    {text}\n")

    def close(self) -> None:
        """Leave the terminal as it was."""
        with self._lock:
            if self._status:
                self._status = ""
                self._write("\r\033[K")

    def good(self, text: str) -> str:
        """Return text in the colour of what is as it should be."""
        return self._styled("32", text)

    def bad(self, text: str) -> str:
        """Return text in the colour of what is not."""
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
