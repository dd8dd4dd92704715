"""Reads the template of an OSMO workflow: loops are unrolled, and plain expressions stay expressions.

`gpu: {{ n_gpus }}` stays as it is in the result. The loop around the tasks, and what depends on its variable, becomes
text.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from torchrun_cli.convert import marks
from torchrun_cli.convert.marks import Expression
from torchrun_cli.convert.source import ConvertError, Document, documents
from torchrun_cli.template.values import split_defaults

_LINE: Final = re.compile("\ue010(\\d+)\ue011")
_LARGE: Final = 10**6
_MOST_POWER: Final = 64
_FORMAT_WIDTH: Final = re.compile(r"%[-+ 0#]*\d{5}|%[-+ 0#]*\*")
_MOST_EXPRESSIONS: Final = 20_000
_MOST_RENDERED: Final = 4_000_000


class _Missing(StrictUndefined):
    """A variable without a default: `--set` gives it. It may stand in the result, but nothing can depend on it."""

    __slots__ = ()

    def __str__(self) -> str:  # type: ignore[override]
        """Return no text: only the expression is kept."""
        return ""

    __index__ = StrictUndefined._fail_with_undefined_error  # noqa: SLF001 as Jinja's own classes do


@dataclass(frozen=True)
class Template:
    """A workflow's text, taken apart."""

    name: str
    """The name of the file, for errors."""
    defaults: Mapping[str, Any]
    required: frozenset[str]
    """Variables without a default."""
    statements: tuple[tuple[int, str], ...]
    """The lines and texts of its statements, such as `for item in range(n_nodes)`."""
    _parts: tuple[tuple[str, str, int], ...]

    def render(self, values: Mapping[str, Any]) -> tuple[Document, tuple[Expression, ...]]:
        """Return the workflow and the expressions that it keeps.

        Raises ConvertError and CliError with the line of the template.
        """
        kept: list[Expression] = []
        numbers, lines, number = [], [], 1
        for line in self._render(values, kept).split("\n"):
            found = _LINE.findall(line)
            number = int(found[-1]) if found else number
            numbers.append(number)
            lines.append(_LINE.sub("", line))
        documents_ = documents(marks.mark_tokens("\n".join(lines)), self.name, numbers)
        if len(documents_) != 1:
            raise ConvertError(f"the file has {len(documents_)} YAML documents; a workflow is one document")
        return documents_[0], tuple(kept)

    def _render(self, values: Mapping[str, Any], kept: list[Expression]) -> str:
        """Return the text, with a mark of its number in each line."""
        numbers: dict[tuple[str, str], int] = {}

        def keep(source: str, value: object) -> str:
            if "\n" in str(value) or not isinstance(value, str | int | float | _Missing) or isinstance(value, bool):
                return str(value)
            if len(kept) >= _MOST_EXPRESSIONS:
                raise ConvertError("the template has too many expressions; lower the numbers in default-values")
            found = Expression(source, None if isinstance(value, _Missing) else value)
            number = numbers.setdefault((source, repr(found.value)), len(kept))
            if number == len(kept):
                kept.append(found)
            return marks.expression(number)

        environment = _environment()
        environment.globals["__keep"] = keep
        pieces, length = [], 0
        try:
            for piece in environment.from_string("".join(_code(*part) for part in self._parts)).generate(**values):
                pieces.append(piece)
                length += len(piece)
                if length > _MOST_RENDERED:
                    raise ConvertError("the template makes too much text; lower the numbers in default-values")
        except ConvertError as error:
            raise ConvertError(error.message, error.line or _line(error)) from error
        except UndefinedError as error:
            raise ConvertError(f"{error.message}; add it to default-values", _line(error)) from error
        except (TemplateError, ArithmeticError, TypeError, ValueError, LookupError, RecursionError) as error:
            raise ConvertError(f"the template fails: {error}", _line(error)) from error
        return "".join(pieces)


def read(text: str, name: str) -> Template:
    """Take a workflow's text apart. `name`: of the file, for errors. Raises ConvertError and CliError."""
    source, defaults = split_defaults(text, name)
    environment = _environment()
    try:
        tokens = [*environment.lex(source)]
    except TemplateSyntaxError as error:
        raise ConvertError(f"the template cannot be read: {error.message}", error.lineno) from error
    parts = [*_parts(tokens)]
    free = _free(environment, parts)
    chosen = tuple(_chosen(environment, part, free) for part in parts)
    statements = tuple((line, code.strip(" {%-+}")) for kind, code, line in parts if kind == "statement")
    return Template(name, defaults, frozenset(free - defaults.keys()), statements, chosen)


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox in which no single operation takes long."""

    intercepted_binops = frozenset(["*", "**", "%"])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401 Jinja's own
        """Compute, unless the result may be very large."""
        large = any(isinstance(each, int) and abs(each) > _LARGE for each in (left, right))
        texts = operator == "%" and isinstance(left, str)
        if texts and _FORMAT_WIDTH.search(left):
            raise ConvertError("a width in a format is too large; write it smaller")
        if large or (operator == "**" and isinstance(right, int) and right > _MOST_POWER):
            raise ConvertError(f"a number in front of or behind {operator} is too large; write it smaller")
        return super().call_binop(context, operator, left, right)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = _Environment(undefined=_Missing, keep_trailing_newline=True)
    environment.globals = {"range": environment.globals["range"]}
    return environment


def _parts(tokens: list[tuple[int, str, str]]) -> Iterator[tuple[str, str, int]]:
    """Yield (kind, text, line): text, expression with braces, raw text, or another part of the template as it is."""
    inside, code, start = "", "", 1
    for line, kind, value in tokens:
        if not inside and kind == "data":
            yield "text", value, line
            continue
        if not inside:
            inside, code, start = kind, "", line
        code += value
        if kind == inside.replace("_begin", "_end"):
            names = {"variable_begin": "expression", "block_begin": "statement"}
            yield names.get(inside, "other"), code, start
            inside = ""


def _inner(code: str) -> str:
    return code.strip()[2:-2].strip("-+").strip()


def _free(environment: ImmutableSandboxedEnvironment, parts: list[tuple[str, str, int]]) -> set[str]:
    """Return the variables that come from outside of the template. Raises ConvertError for a template with errors."""
    code = "".join("x" if kind == "expression" and marks.is_token(_inner(text)) else text for kind, text, _ in parts)
    try:
        tree = environment.parse(code)
    except TemplateSyntaxError as error:
        raise ConvertError(f"the template cannot be read: {error.message}", error.lineno) from error
    assigned = {node.name for node in tree.find_all(nodes.Name) if node.ctx in ("store", "param")}
    return meta.find_undeclared_variables(tree) - assigned - environment.globals.keys()


def _chosen(
    environment: ImmutableSandboxedEnvironment, part: tuple[str, str, int], free: set[str]
) -> tuple[str, str, int]:
    """Decide about a part: an expression of free variables alone is kept; a token of OSMO is no expression."""
    kind, code, line = part
    if kind != "expression":
        return part
    inner = _inner(code)
    if marks.is_token(inner):
        return "token", f"{{{{{inner}}}}}", line
    names = {node.name for node in environment.parse(code).find_all(nodes.Name)} - environment.globals.keys()
    return ("kept" if names and names <= free else "other"), code, line


def _code(kind: str, code: str, line: int) -> str:
    """Return the template code of a part. Each line of text begins with a mark of its number."""
    if kind == "kept":
        inner = _inner(code)
        before, after = ("-" if code[2] == "-" else ""), ("-" if code[-3] == "-" else "")
        return f"{{{{{before} __keep({inner!r}, ({inner})) {after}}}}}"
    if kind == "token":
        return "{% raw %}" + code + "{% endraw %}"
    if kind == "text":
        first, *rest = code.split("\n")
        return "\n".join([first, *(f"\ue010{line + n}\ue011{each}" for n, each in enumerate(rest, 1))])
    return code


def _line(error: BaseException) -> int | None:
    """Return the line of the template where an error arose."""
    trace, line = error.__traceback__, None
    while trace:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
