"""Marks: private characters that stand in a text for what is not known yet, so that YAML and comparisons pass over it.

An expression of the template, a token of OSMO, the number of a node. `finish` writes what each stands for.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

INDEX, OFFSET = "\ue004", "\ue005"
"""The index of the node, and the index times the workers per node."""
OUTPUT, WORKFLOW = "\ue007", "\ue008"
_EXPRESSION: Final = re.compile("\ue000(\\d+)\ue001")
_HOST: Final = re.compile("\ue002([^\ue003]*)\ue003")
_INPUT: Final = re.compile("\ue009(\\d+)\ue00a")
_TOKEN: Final = re.compile(r"\{\{-?\s*(?:(host|input)\s*:\s*([^{}\s]+)|(output|workflow_id))\s*-?\}\}")
_MARK: Final = re.compile("[\ue000-\ue00c]")
_OPENING: Final = re.compile(r"\{(?:[{%]|# )")
"""What a manifest's template reads. The `{#` of a shell is none: only with a blank it begins a comment."""


@dataclass(frozen=True)
class Expression:
    """An expression of the template that the result keeps."""

    source: str
    value: Any
    """Its value with the default values."""


def expression(number: int) -> str:
    """Return the mark of an expression."""
    return f"\ue000{number}\ue001"


def code(text: str) -> str:
    """Return the mark of template code: `% endfor %` stands for itself between braces."""
    return f"\ue00b{text}\ue00c"


def host(task: str) -> str:
    """Return the mark of the address of a task."""
    return f"\ue002{task}\ue003"


def mark_tokens(text: str) -> str:
    """Replace the tokens of OSMO by their marks."""

    def mark(match: re.Match[str]) -> str:
        kind, name, alone = match.groups()
        if kind == "host":
            return host(name)
        if kind == "input":
            return f"\ue009{name}\ue00a" if name.isdigit() else match[0]
        return OUTPUT if alone == "output" else WORKFLOW

    return _TOKEN.sub(mark, text)


def is_token(code: str) -> bool:
    """Whether the inside of two braces is a token of OSMO and no expression."""
    return bool(_TOKEN.fullmatch(f"{{{{{code.strip()}}}}}"))


def marked(text: str) -> bool:
    """Whether a text has marks."""
    return bool(_MARK.search(text))


def replace_hosts(text: str, address: Callable[[str], str]) -> str:
    """Replace the marks of tasks by their addresses."""
    return _HOST.sub(lambda match: address(match[1]), text)


def replace_inputs(text: str, directory: Callable[[int], str]) -> str:
    """Replace the marks of inputs by their directories."""
    return _INPUT.sub(lambda match: directory(int(match[1])), text)


def hosts(text: str) -> list[str]:
    """Return the tasks whose addresses a text has."""
    return _HOST.findall(text)


def values(text: str, expressions: Sequence[Expression]) -> str:
    """Replace the marks of expressions by their values."""
    return _EXPRESSION.sub(lambda match: str(expressions[int(match[1])].value), text)


def only(text: str, expressions: Sequence[Expression]) -> Expression | None:
    """Return the expression that is all of a text."""
    match = _EXPRESSION.fullmatch(text.strip())
    return expressions[int(match[1])] if match else None


def readable(text: str, expressions: Sequence[Expression]) -> str:
    """Write the marks in a comment: no template reads a comment that says `<n_nodes>` or `<host:master>`."""
    text = _EXPRESSION.sub(lambda match: f"<{expressions[int(match[1])].source}>", text)
    text = _INPUT.sub(lambda match: f"<input:{match[1]}>", _HOST.sub(lambda match: f"<host:{match[1]}>", text))
    names = {INDEX: "<index>", OFFSET: "<offset>", OUTPUT: "<output>", WORKFLOW: "<workflow_id>"}
    for mark, name in names.items():
        text = text.replace(mark, name)
    return text


def used(text: str) -> set[int]:
    """Return the numbers of the expressions in a text."""
    return {int(number) for number in _EXPRESSION.findall(text)}


def finish(text: str, expressions: Sequence[Expression]) -> str:
    """Write the expressions of the template again, and everything else so that a template leaves it as it is."""
    escaped = _OPENING.sub(lambda match: f"{{{{ '{match[0]}' }}}}", text)
    whole = _EXPRESSION.sub(lambda match: f"{{{{ {expressions[int(match[1])].source} }}}}", escaped)
    return whole.replace("\ue00b", "{").replace("\ue00c", "}")


def is_template(text: str) -> bool:
    """Whether a text has something that a template would read."""
    return bool(_OPENING.search(text))
