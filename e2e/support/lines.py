"""Whole lines from the log of several workers."""

import re
from typing import Final

_NEXT: Final = re.compile(r"(?<=[^\s_])(?=(?:rank|node|error|accuracy)=)")


def whole(log: str) -> str:
    """Return the log with each line that a worker wrote in a line of its own.

    Python without a buffer, as torchrun starts it, writes the end of a line by itself. So the line of another worker
    may come before it. A line of the scripts here starts with one of four names, which follow a space elsewhere.
    """
    return _NEXT.sub("\n", log)
