"""Python's tracebacks in the lines of a log: chains, groups, and exceptions that carry another one in their message."""

import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache

from torchrun_operator.core.facts.lines import Line, is_text

_MARK = "Traceback (most recent call last)"
_CHAINS = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)
_EXCEPTION = re.compile(r"((?:[A-Za-z_]\w*\.)*(?:<locals>\.)?([A-Za-z_]\w*))(: ?.*)?$")
_LEVELS = frozenset({"DEBUG", "INFO", "NOTICE", "WARN", "WARNING", "ERROR", "CRITICAL", "FATAL"})
_SYNTAX = re.compile("(SyntaxError|IndentationError|TabError): ")
_PLACE = re.compile(r' *File "(.*)", line (\d+)$')
_CAUGHT = re.compile(r"Caught \w+ in (.*?)\.?$")
"""PyTorch's message for an exception in a worker of a data loader, or in a replica."""
_SPAWNED = re.compile(r"-- (Process \d+) terminated with the following error:")
_LESSER = re.compile(
    r"Exception in thread |Process \S+:$|Error in atexit|Task exception was never retrieved|future: <Task"
)
"""Headings of exceptions that end a thread, a task or a child, but not the worker."""
_IGNORED = re.compile(r"Exception ignored |--- Logging error ---|Error in sys\.excepthook")
_GROUP = re.compile(r"\s*\+ Exception Group $")
_LEAF = re.compile(r"\s*(?:\| )+(\S.*)")
_NOTEBOOK = re.compile(r"([A-Za-z_][\w.]*)\s{2,}$")
_TIME = re.compile(r"\d\d:\d\d")
_FRAMES = " \t│╭╰┃┏┗>"
_MOST_LEAVES = 3
_MOST_CAUSES, _MOST_NESTED = 20, 5
_LONGEST_PREFIX = 200


class Weight(IntEnum):
    """What an exception means for the worker."""

    IGNORED = 0
    LESSER = 1
    """It ended a thread, a task or a child of the worker."""
    FULL = 2


@dataclass(frozen=True)
class Raised:
    """An exception, and the traceback before it."""

    line: Line
    """Its first line."""
    message: str
    """The exception that ended the worker, in one line."""
    text: str
    """The traceback, with those of the exceptions that led to it."""
    weight: Weight
    lines: frozenset[int]
    """The indices of its lines."""


@dataclass
class _Block:
    """A traceback that is being read."""

    line: Line
    prefix: str
    """What a logger writes before each line."""
    weight: Weight
    text: list[str]
    indices: list[int]
    message: list[str] = field(default_factory=list)
    leaves: list[str] = field(default_factory=list)
    """The exceptions in a group."""
    place: str = ""
    """Where an exception that is part of a message was raised."""
    causes: "list[_Block]" = field(default_factory=list)
    """The exceptions before it in the chain."""
    outer: "_Block | None" = None
    """The exception whose message contains it."""
    inner: "_Block | None" = None
    """The exception in the message."""
    depth: int = 0
    over: bool = False

    @property
    def grouped(self) -> bool:
        return _GROUP.fullmatch(self.prefix) is not None

    def takes(self, index: int, text: str) -> bool:
        """Take the next line of the same source. Return whether it belongs to the traceback."""
        if not self.grouped:
            text = _without(self.prefix, text)
        taken = not self.over and (self._grouped(text) if self.grouped else self._plain(text))
        if taken:
            self.text.append(text)
            self.indices.append(index)
        return taken

    def _plain(self, text: str) -> bool:
        if not self.message:
            return self._frame(text)
        waits = len(self.message) == 1 and self.message[0].endswith(":")
        self.over = not is_text(text) or not (waits or text[0] in " \t")
        if not self.over:
            self.message.append(text.strip())
        return not self.over

    def _frame(self, text: str) -> bool:
        notebook = _NOTEBOOK.fullmatch(self.prefix)
        if text.startswith(notebook[1] + ":") if notebook is not None else is_exception(text):
            self.message.append(text.strip())
            return True
        return not text.strip() or text[0] in _FRAMES

    def _grouped(self, text: str) -> bool:
        self.over = text.lstrip()[:1] not in ("|", "+")
        found = _LEAF.match(text)
        if found is not None and is_exception(found[1]):
            (self.leaves if self.message else self.message).append(found[1].strip())
        return not self.over

    def said(self) -> str:
        """Return the exception in one line."""
        if self.inner is not None and self.inner.message:
            place = f" (in {self.inner.place})" if self.inner.place else ""
            return self.inner.said() + place
        head = self.message[0]
        if _SYNTAX.match(head):
            return _placed(head, self.text)
        if self.leaves:
            return f"{head}: {'; '.join(self.leaves[:_MOST_LEAVES])}"
        return f"{head} {self.message[1]}" if head.endswith(":") and len(self.message) > 1 else head

    def parts(self) -> "list[_Block]":
        """Return the tracebacks in the order in which Python prints them."""
        return [*self.causes, self, *(self.inner.parts() if self.inner is not None else [])]


def raised(lines: Sequence[Line]) -> list[Raised]:
    """Find the exceptions in the order of their lines. Lines of several workers may be mixed."""
    sources: dict[str, _Source] = {}
    for index, line in enumerate(lines):
        sources.setdefault(line.source, _Source()).read(index, line)
    blocks = [block for source in sources.values() for block in source.found if block.message]
    return [_raised(block) for block in sorted(blocks, key=lambda block: block.indices[-1])]


def _raised(block: _Block) -> Raised:
    parts = block.parts()
    text = "\n".join(line for part in parts for line in part.text)
    lines = frozenset(index for part in parts for index in part.indices)
    return Raised(parts[0].line, block.said(), text, parts[0].weight, lines)


def is_exception(text: str) -> bool:
    """Whether a line is the name of an exception, with or without its words."""
    found = _EXCEPTION.fullmatch(text.rstrip())
    if found is None or found[2] in _LEVELS:
        return False
    return found[2][0].isupper() or "." in found[1]


class _Source:
    """The lines of one worker, as far as lines tell."""

    def __init__(self) -> None:
        self.found: list[_Block] = []
        self._last: _Block | None = None
        self._before: deque[str] = deque(maxlen=4)
        """The last lines with words."""

    def read(self, index: int, line: Line) -> None:
        last, text = self._last, line.text
        inside = last is not None and last.grouped and last.takes(index, text)
        if not inside and _MARK in text:
            self._begin(index, line)
        elif not inside and not (last is not None and last.takes(index, text)) and _SYNTAX.match(text):
            self._syntax(index, line)
        if text.strip():
            self._before.append(text.rstrip())

    def _begin(self, index: int, line: Line) -> None:
        prefix, last = line.text[: line.text.index(_MARK)], self._last
        before = [_without(prefix, text).strip() for text in self._before]
        spawned = _SPAWNED.match(before[-1]) if before else None
        block = _Block(line, prefix, _weight(before), [line.text[len(prefix) :]], [index])
        nested = prefix.endswith("Original ") or spawned is not None
        if nested and last is not None and last.message and last.depth < _MOST_NESTED:
            caught = _CAUGHT.search(last.message[0])
            block.prefix = prefix.removesuffix("Original ")
            block.place = spawned[1] if spawned is not None else caught[1] if caught is not None else ""
            block.outer, last.inner, last.over, block.depth = last, block, True, last.depth + 1
        elif last is not None and last.message and before and before[-1] in _CHAINS:
            block.causes = [*last.causes[:1], *last.causes[1:][-_MOST_CAUSES:], last]
            block.outer, block.place, block.depth = last.outer, last.place, last.depth
            block.text = ["", before[-1], "", *block.text]
            self._instead(last, block)
        else:
            self.found.append(block)
        self._last = block

    def _instead(self, last: _Block, block: _Block) -> None:
        """Let the next exception of a chain take the place of the one before."""
        if last.outer is not None:
            last.outer.inner = block
        else:
            self.found[self.found.index(last)] = block

    def _syntax(self, index: int, line: Line) -> None:
        """Python prints no traceback of an error in the syntax of the script itself."""
        text = [*self._before]
        while text and not _PLACE.match(text[0]):
            del text[0]
        if text:
            text.append(line.text)
            self._last = _Block(line, "", Weight.FULL, text, [index], [line.text.strip()], over=True)
            self.found.append(self._last)


def _placed(message: str, text: Sequence[str]) -> str:
    """Add the place of an error in the syntax: the last one in the traceback."""
    places = [found for line in text if (found := _PLACE.match(line)) is not None]
    return f"{message} ({places[-1][1]}, line {places[-1][2]})" if places else message


def _weight(before: Iterable[str]) -> Weight:
    """Return what the lines before a traceback say about it."""
    heading = [*before][-2:]
    if any(_IGNORED.match(text) for text in heading[-1:]):
        return Weight.IGNORED
    return Weight.LESSER if any(_LESSER.match(text) for text in heading) else Weight.FULL


def _without(prefix: str, text: str) -> str:
    """Remove what a logger writes before each line: the same, but for the time."""
    if not prefix or len(prefix) > _LONGEST_PREFIX or (text[:1] != prefix[:1] and not prefix[0].isdigit()):
        return text
    if text.startswith(prefix):
        return text[len(prefix) :]
    found = _shape(prefix).match(text) if _TIME.search(prefix) else None
    return text[found.end() :] if found is not None else text


@lru_cache(64)
def _shape(prefix: str) -> re.Pattern[str]:
    """Return the pattern of a prefix whose figures differ from line to line."""
    return re.compile(r"\d+".join(re.escape(part) for part in re.split(r"\d+", prefix)))
