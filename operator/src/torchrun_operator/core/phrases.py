"""Parts of messages for people."""

from collections.abc import Sequence

_MOST_NAMED = 5


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun: `1 node`, `2 nodes`."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def named(names: Sequence[str], most: int = _MOST_NAMED) -> str:
    """Return the first names, and how many more there are."""
    more = len(names) - most
    return ", ".join([*names[:most], *([f"and {more} more"] if more > 0 else [])])
