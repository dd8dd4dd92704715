"""Colours of the terminal. Without a terminal, all texts stay plain."""

import re
from typing import Final, NamedTuple, TypeVar, cast

_STATES: Final = {
    "Running": "32",
    "Complete": "1;32",
    "Succeeded": "32",
    "Resizing": "33",
    "Starting": "36",
    "Pending": "36",
    "Suspended": "35",
    "Terminating": "33",
    "Failed": "1;31",
    "Lost": "31",
    "Invalid": "1;31",
}
_OF_NODES: Final = ("36", "32", "33", "35", "34", "96", "92", "93", "95", "94")
_CODES: Final = re.compile(r"\x1b\[[0-9;]*m")


class Paint(NamedTuple):
    """Paints text, or leaves it as it is."""

    on: bool = False

    def _with(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.on and text else text

    def bold(self, text: str) -> str:
        """Return a heading."""
        return self._with(text, "1")

    def dim(self, text: str) -> str:
        """Return something of less importance."""
        return self._with(text, "2")

    def bad(self, text: str) -> str:
        """Return something to look at first."""
        return self._with(text, "31")

    def good(self, text: str) -> str:
        """Return something that is as wished."""
        return self._with(text, "32")

    def warn(self, text: str) -> str:
        """Return something that may need attention."""
        return self._with(text, "33")

    def state(self, state: str) -> str:
        """Return the state of a job or the phase of a node in its colour."""
        return self._with(state, _STATES.get(state, "0")) if state in _STATES else state

    def node(self, text: str, index: int) -> str:
        """Return a text in the colour of a node."""
        return self._with(text, _OF_NODES[index % len(_OF_NODES)])


PLAIN: Final = Paint()


_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
T = TypeVar("T")


def cleaned(found: T) -> T:
    """Return an object whose texts move no cursor: its messages may come from any program of the cluster."""
    if isinstance(found, str):
        return cast("T", _CONTROL.sub("\N{REPLACEMENT CHARACTER}", found))
    if isinstance(found, dict):
        return cast("T", {key: cleaned(value) for key, value in found.items()})
    return cast("T", [cleaned(each) for each in found]) if isinstance(found, list) else found


def width_of(text: str) -> int:
    """Return how many columns a text takes."""
    return len(_CODES.sub("", text) if "\x1b" in text else text)
