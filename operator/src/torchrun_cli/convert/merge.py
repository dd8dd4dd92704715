"""Makes one node of many: texts that differ only by the number of the node become one text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from torchrun_cli.convert.marks import INDEX, OFFSET

_BLANK: Final = re.compile(r"(?:[^\S\n]|\\\n)+")
"""Blanks between words, and line ends that a backslash takes away: texts may differ in these."""
_TOKEN: Final = re.compile(
    f"\ue000\\d+\ue001|\ue002[^\ue003]*\ue003|\ue009\\d+\ue00a|\\d+|[^\\W\\d]+|{_BLANK.pattern}|\\s+|.", re.DOTALL
)


@dataclass(frozen=True)
class Merged:
    """One text for all nodes, or one for node 0 and one for the others."""

    others: str | None
    """The text of all nodes but node 0. None: they differ among themselves."""
    lead: str | None = None
    """The text of node 0, if it differs."""


def merge(texts: Sequence[str], processes: int) -> Merged:
    """Merge the texts of all nodes, in the order of their numbers. `processes`: workers per node."""
    together = unify(texts, range(len(texts)), processes)
    if together is not None:
        return Merged(together)
    others = unify(texts[1:], range(1, len(texts)), processes)
    return Merged(others, texts[0])


def unify(texts: Sequence[str], numbers: Sequence[int], processes: int) -> str | None:
    """Return the text that stands for all, with marks where it has the number of the node. None: there is none."""
    if len(set(texts)) == 1:
        return texts[0]
    rows = [_TOKEN.findall(text) for text in texts]
    if len({len(row) for row in rows}) != 1:
        return None
    merged = [_token(column, numbers, processes) for column in zip(*rows, strict=True)]
    return None if None in merged else "".join(token for token in merged if token is not None)


def _token(column: Sequence[str], numbers: Sequence[int], processes: int) -> str | None:
    if len(set(column)) == 1 or all(_BLANK.fullmatch(token) for token in column):
        return column[-1]
    if not all(token.isdigit() and token == str(int(token)) for token in column):
        return None
    found = [int(token) for token in column]
    if found == [*numbers]:
        return INDEX
    return OFFSET if found == [number * processes for number in numbers] else None
