"""Patterns of file names, as include and exclude have them. Pure.

`*` and `?` match within one name, `**` across directories, `[abc]` one of some characters. A pattern without `/`
matches the name of a file in any directory; one with `/` matches the whole path below the output. A pattern that
matches a directory covers all files in it.
"""

import re
from collections.abc import Sequence
from functools import lru_cache


def chosen(path: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether a file with this path below the output is to be sent. Exclude wins; no include means all."""
    if include and not any(matches(path, pattern) for pattern in include):
        return False
    return not any(matches(path, pattern) for pattern in exclude)


def matches(path: str, pattern: str) -> bool:
    """Whether the pattern matches the file, or a directory above it."""
    names = path.split("/")
    anchored = "/" in pattern.rstrip("/")
    wanted = _compiled(pattern.strip("/"))
    last = len(names) - 1 if pattern.endswith("/") else len(names)
    if anchored:
        return any(wanted.fullmatch("/".join(names[: end + 1])) for end in range(last))
    return any(wanted.fullmatch(name) for name in names[:last])


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts, at = [], 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            parts.append("(?:[^/]+/)*")
            at += 3
        elif pattern.startswith("**", at):
            parts.append(".*")
            at += 2
        else:
            part, at = _one(pattern, at)
            parts.append(part)
    return re.compile("".join(parts), re.DOTALL)


def _one(pattern: str, at: int) -> tuple[str, int]:
    """Return the expression for the character or the set at this place, and the next place."""
    character = pattern[at]
    if character in "*?":
        return ("[^/]*" if character == "*" else "[^/]"), at + 1
    end = pattern.find("]", at + 2) if character == "[" else -1
    if end < 0:
        return re.escape(character), at + 1
    inside = pattern[at + 1 : end]
    negated = inside[0] in "!^"
    members = inside[negated:].replace("\\", r"\\").replace("[", r"\[").replace("]", r"\]").replace("^", r"\^")
    return f"(?!/)[{'^' if negated else ''}{members}]", end + 1
