"""Draws the path of one decision through the code, from the code: the modules that it enters, in order."""

import ast
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pages import page

from torchrun_operator.core import decide as decision
from torchrun_operator.core.findings import find
from torchrun_operator.core.policies import chain
from torchrun_operator.core.policies.replace import replace
from torchrun_operator.core.status import report

_CORE = "torchrun_operator.core."


@dataclass(frozen=True)
class Entry:
    """A module that a step of the decision enters."""

    module: str
    """Its name below torchrun_operator.core, such as ``findings.counts``."""
    function: str
    about: str
    """The first line of the module's docstring."""


def walk() -> str:
    """Return the page about one pass as Markdown. Raises ValueError if a step enters a module twice."""
    policies = [entry(policy) for policy in (*chain.CHAIN, replace)]
    return page(
        "walk.md.j2",
        trim_blocks=True,
        steps=entries(decision, "decide"),
        findings=entries(find, "find"),
        policies=policies,
        status=entries(report, "report", "_conditions", "_verdicts"),
    )


def entries(module: Any, *functions: str) -> list[Entry]:  # noqa: ANN401 - a module
    """Return the modules of core that these functions of a module enter, in the order of their calls.

    Raises ValueError if one of them is entered twice.
    """
    called = [name for function in functions for name in _calls(getattr(module, function))]
    found = [entry(vars(module)[name]) for name in called if _is_of_core(vars(module).get(name), module)]
    modules = [each.module for each in found]
    twice = sorted({name for name in modules if modules.count(name) > 1})
    if twice:
        raise ValueError(f"{module.__name__} enters {', '.join(twice)} more than once")
    return found


def entry(function: Callable[..., Any]) -> Entry:
    """Return the entry of the module that defines this function."""
    about = inspect.getdoc(importlib.import_module(function.__module__)) or ""
    return Entry(function.__module__.removeprefix(_CORE), function.__name__, about.split("\n", maxsplit=1)[0])


def _calls(function: Callable[..., Any]) -> list[str]:
    """Return the names that a function calls, in the order of the source."""
    calls = [
        node
        for node in ast.walk(ast.parse(inspect.getsource(function)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    calls.sort(key=lambda call: (call.lineno, call.col_offset))
    return [call.func.id for call in calls if isinstance(call.func, ast.Name)]


def _is_of_core(thing: object, module: Any) -> bool:  # noqa: ANN401 - a module
    """Whether this is a function of another module of core. Classes are values and do not count."""
    return inspect.isfunction(thing) and thing.__module__.startswith(_CORE) and thing.__module__ != module.__name__
