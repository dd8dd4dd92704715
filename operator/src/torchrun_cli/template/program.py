"""Renders one template: a program of its own, so that `bounded.py` can limit its time and memory.

It reads a JSON object from stdin, and writes one to stdout. It imports nothing of this package, and no file.
"""

import contextlib
import json
import re
import signal
import sys
from collections.abc import Iterator
from math import ceil
from types import TracebackType
from typing import Any, Final

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

_FILE: Final = "<manifest>"
_MARK: Final = re.compile("\ue000([0-9]+)\ue001")
"""Stands before each piece of the template's own text: the number of its line."""
_CAPTURES: Final = (nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.AssignBlock)
"""Their text becomes a value: marks would be seen."""
_OTHER_FILES: Final = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
_NAME: Final = re.compile("'(.*)' is undefined")


class _WrongError(Exception):
    """Ends the program with an answer that says what is wrong."""

    def __init__(self, message: str, line: int | None = None, name: str = "") -> None:
        super().__init__(message)
        self.answer = {"error": message, "line": line, "name": name}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Render `text` with `values`, and return the text and the line in the template of each of its lines.

    Without `values`, return only `used`: the names that the template uses and does not set itself. Whatever is wrong
    with the template is in `error`, `line` and `name` instead.
    """
    environment = _environment()
    try:
        tree = _parsed(environment, request["text"])
        if "values" not in request:
            return {"used": sorted(meta.find_undeclared_variables(tree) - set(environment.globals))}
        _mark(tree)
        with _limited(request["seconds"], request["bytes"]):
            text = _rendered(environment, tree, request["values"], request["characters"])
    except _WrongError as wrong:
        return wrong.answer
    return _unmarked(text)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # With the space, the shell's ${#name} is no comment.
        comment_start_string="{# ",
        autoescape=False,
    )
    environment.globals.pop("lipsum")
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    return environment


def _finalize(value: object) -> object:
    """Write values as YAML reads them: Python's None and True mean something else there."""
    return json.dumps(value) if value is None or isinstance(value, bool | list | tuple | dict) else value


def _parsed(environment: ImmutableSandboxedEnvironment, text: str) -> nodes.Template:
    try:
        tree = environment.parse(text, filename=_FILE)
    except TemplateSyntaxError as error:
        raise _WrongError(error.message or "this is not a template", error.lineno) from None
    except RecursionError:
        raise _WrongError("the template is nested too deeply") from None
    for node in tree.find_all(_OTHER_FILES):
        raise _WrongError("a manifest cannot include other files; write the text here", node.lineno)
    return tree


def _mark(node: nodes.Node) -> None:
    """Write the number of each line into the text that the template copies."""
    for child in node.iter_child_nodes():
        if isinstance(child, nodes.TemplateData):
            lines = enumerate(child.data.split("\n"), child.lineno)
            child.data = "\n".join(f"\ue000{number}\ue001{line}" for number, line in lines)
        elif not isinstance(child, _CAPTURES):
            _mark(child)


def _unmarked(text: str) -> dict[str, Any]:
    lines, numbers, number = [], [], 1
    for line in text.split("\n"):
        marks = _MARK.findall(line)
        number = int(marks[-1]) if marks else number
        lines.append(_MARK.sub("", line))
        numbers.append(number)
    return {"text": "\n".join(lines), "lines": numbers}


def _rendered(
    environment: ImmutableSandboxedEnvironment, tree: nodes.Template, values: dict[str, Any], most: int
) -> str:
    pieces, length = [], 0
    try:
        code = environment.compile(tree, filename=_FILE)
        template = environment.template_class.from_code(environment, code, environment.make_globals(None))
        for piece in template.generate(values):
            pieces.append(piece)
            length += len(piece)
            if length > most:
                raise _WrongError(f"the template writes more than {most // 2**20} MiB")
    except _WrongError:
        raise
    except UndefinedError as error:
        name = _NAME.fullmatch(error.message or "")
        raise _WrongError(error.message or "undefined", _line(error.__traceback__), name[1] if name else "") from None
    except TemplateError as error:
        raise _WrongError(error.message or type(error).__name__, _line(error.__traceback__)) from None
    except MemoryError as error:
        raise _WrongError("the template needs too much memory", _line(error.__traceback__)) from None
    except RecursionError as error:
        raise _WrongError("a macro calls itself without end", _line(error.__traceback__)) from None
    except Exception as error:
        raise _WrongError(f"{error}" or type(error).__name__, _line(error.__traceback__)) from None
    return "".join(pieces)


def _line(traceback: TracebackType | None) -> int | None:
    """Return the line of the template that a traceback comes from."""
    found = None
    while traceback:
        if traceback.tb_frame.f_code.co_filename == _FILE:
            found = traceback.tb_lineno
        traceback = traceback.tb_next
    return found


@contextlib.contextmanager
def _limited(seconds: float, most_bytes: int) -> Iterator[None]:
    """Limit time and memory, where the system can. Our parent limits the time as well."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # noqa: PLC0415 not on Windows

        resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
        # Ends what no signal handler interrupts, such as the computation of one very large number.
        resource.setrlimit(resource.RLIMIT_CPU, (ceil(seconds) + 2, ceil(seconds) + 2))
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, _too_long)
        signal.setitimer(signal.ITIMER_REAL, seconds)
    yield
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)


def _too_long(_signal: int, _frame: object) -> None:
    raise TimeoutError("the template takes too long; look for a loop without end")


if __name__ == "__main__":
    json.dump(answer(json.load(sys.stdin)), sys.stdout)
