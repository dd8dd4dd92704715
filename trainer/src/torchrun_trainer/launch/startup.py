"""Start-up time: keeps PyTorch from loading its compiler into a script that does not use it.

Building an optimizer or a DistributedDataParallel module imports ``torch._dynamo``, sympy and a thousand more modules.
That takes as long as ``import torch`` itself, at every restart of every worker. Its only purpose is to tell the
compiler which functions to leave alone, which is pointless without a compiler. So those functions run undecorated until
something imports the compiler. Just before that import, everything is restored to what PyTorch made it.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

_COMPILER = "torch._dynamo"
_MARK = "__dynamo_disable"  # where torch._compile keeps the function that it made from a decorated one


def defer_compiler() -> bool:
    """Keep the compiler out of the process until it is used. Call this before building the model and the optimizer.

    Returns False, and changes nothing, if the compiler is already loaded. On a PyTorch version with other internals the
    compiler is loaded as usual: slower, but just as correct.
    """
    if _COMPILER in sys.modules:
        return False
    if any(isinstance(finder, _Undo) for finder in sys.meta_path):
        return True
    undo = _Undo()
    for owner in (Optimizer, DistributedDataParallel):
        for member in vars(owner).values():
            _leave_undecorated(member, undo)
    for optimizer in Optimizer.__subclasses__():
        _simplify_step(optimizer, undo)
    vars(torch)["_dynamo"] = _DeferredCompiler(_COMPILER)
    undo.actions.append(lambda: vars(torch).pop("_dynamo"))
    sys.meta_path.insert(0, undo)
    return True


class _Undo(MetaPathFinder):
    """An import hook that restores everything when the compiler is about to be imported."""

    def __init__(self) -> None:
        self.actions: list[Callable[[], object]] = []
        self.done = False

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == _COMPILER:
            sys.meta_path.remove(self)
            self.done = True
            for action in self.actions:
                action()
        return None


class _DeferredCompiler(ModuleType):
    """Replaces the attribute ``torch._dynamo``; any attribute that it lacks loads the real module."""

    # All that DistributedDataParallel asks for. The answer differs only if the compiler is loaded and configured.
    utils = SimpleNamespace(get_optimize_ddp_mode=lambda: "ddp_optimizer")

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(importlib.import_module(_COMPILER), name)


def _leave_undecorated(member: object, undo: _Undo) -> None:
    """Call a function that PyTorch keeps out of the compiler directly.

    It may lie under further decorators, each of which names the next one in ``__wrapped__``.
    """
    while isinstance(member, FunctionType):
        function = getattr(member, "__wrapped__", None)
        if member.__code__.co_filename.endswith("_compile.py") and isinstance(function, FunctionType):
            if not hasattr(function, _MARK):
                setattr(function, _MARK, function)
                undo.actions.append(functools.partial(delattr, function, _MARK))
            return
        member = function


def _simplify_step(optimizer: type[Optimizer], undo: _Undo) -> None:
    """Give an optimizer a ``step`` that sets the gradient mode like PyTorch's, but marks no graph break."""
    decorated = vars(optimizer).get("step")
    function = getattr(decorated, "__wrapped__", None)
    if not isinstance(decorated, FunctionType) or decorated.__code__.co_name != "_use_grad" or function is None:
        return

    @functools.wraps(function)
    def step(self: Optimizer, *args: object, **kwargs: object) -> object:
        if undo.done:
            return decorated(self, *args, **kwargs)
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return function(self, *args, **kwargs)

    # It stays: PyTorch wraps the step of the class again, for hooks, when the first instance is made.
    setattr(optimizer, "step", step)  # noqa: B010 (mypy forbids assigning a method)
