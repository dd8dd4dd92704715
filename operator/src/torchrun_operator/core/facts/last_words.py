"""The last words of a process that left no exception: of native code, of other languages, or just its last lines."""

import re
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

from torchrun_operator.core.facts.lines import JUDGED, Line, is_text

_TORCHRUN = re.compile(
    r"[DIWEF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ (?:\S+/)?torch/|\[\d{4}-\d\d-\d\d [\d:,]+\] torch\.distributed\.|"
    r"(?:DEBUG|INFO|WARNING|ERROR):torch\.distributed\.(?:run|launcher|elastic)|"
    r"\*{20,}$|Setting OMP_NUM_THREADS environment variable for each process|torchrun-operator: "
)
"""What torchrun's agent and the launcher write."""
_SUMMARY = re.compile(r"\S*\.ChildFailedError:")
"""The table of failures that torchrun writes last follows."""
_NOISE = re.compile(
    r"\[?[IW]\d{4} \d\d:\d\d:\d\d|.*Warning: |\s+warnings\.warn\(|wandb: |Exception ignored |"
    r"note: (?:run with|in) |stack backtrace:|Node\.js v\d|npm (?:ERR!|error) (?:A complete log|code|errno|path)|"
    r"exit status \d+$|Execution halted|Extension modules: |\.{3} and \d+ more|#+\s*$|Compilation exited|"
    r"make(?:\[\d+\])?: \*\*\*"
)
"""What is written after the words that tell: warnings of an exit, hints, echoes of a shell."""
_FRAME = re.compile(
    r"\s+at \S|\s+from \S+:\d+|\s+File \"|\s*\[\d+\] \S|\s+\d+: (?:0x)?\S|(?:Current )?[Tt]hread 0x|goroutine \d+ |"
    r"\t\S+\.go:\d+|\s+\.{3} \d+ more|\s*#\d+ +0x|\s*frame #\d+:|created by |\S+\(.*\)$"
)
"""One call in the stack of another language."""
_NATIVE = re.compile(
    r"terminate called |Fatal Python error: (?!Aborted)|double free or corruption|(?:free|malloc|realloc|calloc)\(\): |"
    r"munmap_chunk\(\): |malloc_consolidate\(\): |corrupted (?:size|double-linked list|unsorted)|"
    r"\*\*\* (?:stack smashing|buffer overflow) detected \*\*\*|F\d{4} \d\d:\d\d:\d\d|"
    r".*: Assertion [`'].*' failed|.*\bCheck failed: |.*AddressSanitizer: |"
    r"panic: |runtime: out of memory|thread '.*' (?:\(\d+\) )?panicked at |Exception in thread \"|"
    r".*: symbol lookup error: |.*: error while loading shared libraries: |.*: version `\S+' not found"
)
"""The first line of what only a process writes that ends by it."""
_ERROR = re.compile(
    r"(?:Uncaught )?(?:\w+\.)*(?:[A-Z]\w*)?(?:Error|Exception)(?: \[\w+\])?(?:: |$)|fatal error: |ERROR: LoadError: |"
    r"Error in .*: |PANIC: |Unhandled exception|.*\(\w+(?:::\w+)*Error\)$"
)
"""The first line of an error that has ended the process if nothing but calls follows."""
_ABORTED = re.compile(r"Fatal Python error: Aborted|.*\b(?:Segmentation fault|Bus error|Illegal instruction|Aborted)\b")
_GO_ON = re.compile(r"terminate called |thread '|Error in .*:\s*$|Uncaught$")
"""Heads whose next line has the words."""
BURST = timedelta(seconds=5)
"""Lines within this time belong to one failure."""
_MOST_LINES = 20
_SEARCHED = 500
_FIGURES = re.compile(r"\d+")
_MANY = 5
"""So many lines that differ only in figures are the output of a loop."""
_HEADING = 3
"""How many lines the words of one message may have."""


def is_torchrun(text: str) -> bool:
    """Whether torchrun's agent or the operator's launcher wrote the line."""
    return _TORCHRUN.match(text, 0, JUDGED) is not None


def last_words(lines: Sequence[Line]) -> tuple[str, Line, str] | None:
    """Return the words in one line, the line that has them, and the last lines. None: nothing was written.

    ``lines`` have no line of torchrun, and no line of a traceback.
    """
    summary = next((index for index, line in enumerate(lines) if _SUMMARY.match(line.text)), len(lines))
    told = [line for line in lines[:summary] if is_text(line.text)][-_SEARCHED:]
    if not told:
        return None
    tail = "\n".join(line.text for line in told[-_MOST_LINES:])
    found = _head(told, _NATIVE, _ABORTED)
    found = found if found is not None else _unanswered(told)
    if found is not None:
        return _told(told, found)
    end = _end(told)
    return _paragraph(told, end), told[end], tail


def _end(told: Sequence[Line]) -> int:
    """Return the index of the last line that tells.

    A container writes to two pipes. Many lines that are alike may come out of one after the last words of the other.
    """
    shapes = [_FIGURES.sub("0", line.text[:JUDGED]) for line in told]
    count = Counter(shapes)
    telling = [index for index in reversed(range(len(told))) if not _is_noise(told[index].text)]
    last = next(iter(telling), len(told) - 1)
    if count[shapes[last]] < _MANY:
        return last
    alone = (index for index in telling if count[shapes[index]] == 1 and _is_recent(told[index], told[-1]))
    return next(alone, last)


def crash(lines: Sequence[Line]) -> tuple[str, Line, str] | None:
    """Return as above the words of native code that ended the process; None: there are none."""
    told = [line for line in lines if is_text(line.text)][-_SEARCHED:]
    found = _head(told, _NATIVE)
    return _told(told, found) if found is not None else None


def _told(told: Sequence[Line], head: int) -> tuple[str, Line, str]:
    return _joined(told, head), told[head], "\n".join(line.text for line in told[head:])


def _head(told: Sequence[Line], *kinds: re.Pattern[str]) -> int | None:
    """Return the index of the first line of one of these kinds near the end: the others follow from it."""
    recent = [index for index, line in enumerate(told) if _is_recent(line, told[-1])]
    return next((index for kind in kinds for index in recent if kind.match(told[index].text, 0, JUDGED)), None)


def _unanswered(told: Sequence[Line]) -> int | None:
    """Return the index of the last error after which nothing was written but calls."""
    for index in reversed(range(len(told))):
        if _ERROR.match(told[index].text, 0, JUDGED):
            return index
        if not (_is_noise(told[index].text) or told[index].text[:1].isspace()):
            return None
    return None


def _is_recent(line: Line, last: Line) -> bool:
    time, end = line.time, last.time
    return time is None or end is None or end - time <= BURST


def _joined(told: Sequence[Line], head: int) -> str:
    """Return the head, with the next line if that has the words."""
    words = [told[head].text.strip()]
    if _GO_ON.match(words[0]):
        more = (line.text.strip() for line in told[head + 1 : head + 2])
        words += [text for text in more if not _FRAME.match(text)]
    return " ".join(words)


def _paragraph(told: Sequence[Line], end: int) -> str:
    """Return a line, with the lines before it that it is indented below."""
    first = end
    while first > max(0, end - _HEADING + 1) and told[first].text[:1].isspace():
        first -= 1
    words = told[first : end + 1] if not told[first].text[:1].isspace() else told[end : end + 1]
    return " ".join(line.text.strip() for line in words)


def _is_noise(text: str) -> bool:
    return _NOISE.match(text, 0, JUDGED) is not None or _FRAME.match(text, 0, JUDGED) is not None
