"""Parts of messages for people."""

from collections.abc import Sequence

_MOST_NAMED = 5


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: `1 node`, `2 nodes`."""
    return f"{count} {noun if count == 1 else noun + 's'}"


def share(part: int, whole: int, noun: str, one: str, several: str, of: str = "of") -> str:
    """Return how many of them do something: `1 of 3 nodes trains`, `2 of 3 nodes train`, `1 of 1 node trains`."""
    return f"{part} {of} {counted(whole, noun)} {one if 1 in (part, whole) else several}"


def named(names: Sequence[str], most: int = _MOST_NAMED) -> str:
    """Return the first names, and how many more there are."""
    more = len(names) - most
    return ", ".join([*names[:most], *([f"and {more} more"] if more > 0 else [])])
