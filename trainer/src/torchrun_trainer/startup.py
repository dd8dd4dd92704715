"""Start-up time: keeps PyTorch from loading its compiler into a script that does not use it.

Building an optimizer or a DistributedDataParallel module imports ``torch._dynamo``, sympy and a thousand more modules:
as long again as ``import torch`` itself, at every restart of every worker. They are imported to tell the compiler what
to leave alone, which says nothing while there is no compiler. The functions in question run as they are until something
imports the compiler; from then on PyTorch's own code takes over, so ``torch.compile`` works as ever.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

_COMPILER = "torch._dynamo"
_MARK = "__dynamo_disable"  # where torch._compile keeps the function that it made of a decorated one


class _DeferredCompiler(ModuleType):
    """Stands in for the attribute ``torch._dynamo``; whatever it cannot answer loads the real module."""

    utils = SimpleNamespace(get_optimize_ddp_mode=lambda: "ddp_optimizer")

    def __getattribute__(self, name: str) -> Any:  # noqa: ANN401
        if name == "utils" and _COMPILER not in sys.modules:
            return type(self).utils
        if name.startswith("__"):
            return super().__getattribute__(name)
        return getattr(importlib.import_module(_COMPILER), name)


def defer_compiler() -> bool:
    """Keep the compiler out of the process until it is used; call it before building the model and the optimizer.

    Returns False, and changes nothing, if the compiler is loaded already. On a PyTorch that is built differently from
    the versions this fits, the compiler is loaded as ever: slower, and just as correct.
    """
    if _COMPILER in sys.modules:
        return False
    for owner in (Optimizer, DistributedDataParallel):
        for member in vars(owner).values():
            _defer(member)
    for optimizer in Optimizer.__subclasses__():
        _defer_step(optimizer)
    vars(torch).setdefault("_dynamo", _DeferredCompiler(_COMPILER))
    return True


def _defer(member: object) -> None:
    """Have a function that PyTorch keeps out of the compiler run as it is while there is no compiler.

    Such a function may lie under further decorators; each of them names the next one in ``__wrapped__``.
    """
    while isinstance(member, FunctionType):
        function = getattr(member, "__wrapped__", None)
        if member.__code__.co_filename.endswith("_compile.py") and isinstance(function, FunctionType):
            if not hasattr(function, _MARK):
                setattr(function, _MARK, _plain(member, function))
            return
        member = function


def _plain(decorated: FunctionType, function: FunctionType) -> Callable[..., object]:
    @functools.wraps(function)
    def plain(*args: object, **kwargs: object) -> object:
        if _COMPILER not in sys.modules:
            return function(*args, **kwargs)
        vars(function).pop(_MARK, None)
        return decorated(*args, **kwargs)

    return plain


def _defer_step(optimizer: type[Optimizer]) -> None:
    """Give an optimizer a ``step`` that sets the gradient mode as PyTorch's does, without marking a graph break."""
    decorated = vars(optimizer).get("step")
    function = getattr(decorated, "__wrapped__", None)
    if not isinstance(decorated, FunctionType) or decorated.__code__.co_name != "_use_grad" or function is None:
        return

    @functools.wraps(decorated)
    def step(self: Optimizer, *args: object, **kwargs: object) -> object:
        if _COMPILER in sys.modules:
            return decorated(self, *args, **kwargs)
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return function(self, *args, **kwargs)

    setattr(optimizer, "step", step)  # noqa: B010 (mypy forbids assigning a method)
