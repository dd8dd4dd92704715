"""Staging: copies a state into memory that training does not touch, and finds what in it cannot be saved."""

from __future__ import annotations

import io
import pickle
import sys
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor

SHARDED = "torchrun_trainer.sharded"
"""In a staged state, a dictionary with this only key replaces a sharded tensor; the value is the tensor's name."""

_ATOMS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
_KEYS = (str, int, float, bool)
_LARGE_BYTES = 1 << 20
"""Smaller tensors are copied at once, such as a learning rate that a scheduler changes between two steps."""

_OPERATION_SECONDS = 2.0
"""No operation on a single tensor takes longer."""


class UnsupportedError(ValueError):
    """``weights_only=True`` could not read back something in a state; the message says where it is."""


class ChangedError(RuntimeError):
    """Something changed while it was copied; the message says where it is."""


class Staging:
    """Copies a state again and again, into the same memory each time.

    Tensors are copied to the CPU, from a GPU to pinned memory. Tensors that share memory share it in the copy too. A
    copy is valid until the next one. Sharded tensors (DTensor) are not copied but collected in ``shards``.

    Another thread can do a part of the copying by ``complete``. The thread that trains then calls ``settle`` before it
    changes anything that is being copied.
    """

    def __init__(self) -> None:
        self.shards: dict[str, Tensor] = {}
        self._postponed: list[tuple[str, Tensor, Tensor, int]] = []
        self._copied, self._settled, self._settling = threading.Event(), threading.Event(), threading.Lock()
        self._copied.set()
        self._settled.set()
        self._changed: str | None = None
        self._later = False
        self._buffers: dict[str, Tensor] = {}
        self._used: dict[str, Tensor] = {}
        self._copies: dict[tuple[object, ...], Tensor] = {}
        self._copying = True
        self._gpus: set[torch.device] = set()

    def stage(self, state: Mapping[str, object], *, copy: bool = True, later: Collection[str] = ()) -> dict[str, Any]:
        """Return a copy of ``state``; without ``copy`` only look through it.

        Large tensors in CPU memory that belong to the parts named in ``later`` are left to ``complete``, and must not
        change until then. Raises UnsupportedError for objects that ``torch.load(weights_only=True)`` would refuse.
        """
        self.shards, self._used, self._copies, self._copying = {}, {}, {}, copy
        self._postponed, self._changed = [], None
        staged = {}
        for name, value in state.items():
            self._later = name in later
            staged[name] = self._walk(name, value)
        for device in self._gpus:
            torch.cuda.current_stream(device).synchronize()
        self._gpus.clear()
        if copy:
            self._buffers = self._used
        self._copies = {}
        for flag in (self._copied, self._settled):
            if self._postponed:
                flag.clear()
            else:
                flag.set()
        return staged

    @property
    def postponed(self) -> bool:
        """Whether ``stage`` has left something to copy."""
        return bool(self._postponed)

    def complete(self) -> None:
        """Copy what ``stage`` has left, and wait until it is settled whether the copy is good. Not for the main thread.

        Raises ChangedError if it is not good.
        """
        try:
            self._copy_postponed()
        finally:
            self._copied.set()
        # If the next step is far away, any change that was being made during the copying is over by then.
        if not self._settled.wait(_OPERATION_SECONDS):
            self._settle()
        self._check()

    def complete_here(self) -> None:
        """Copy what ``stage`` has left, in the thread that trains."""
        self._copy_postponed()
        self._copied.set()
        self._settle()
        self._check()

    def settle(self, *, wait: bool = True) -> bool:
        """Wait for the copy and find out whether it is good; return whether there was anything to find out.

        PyTorch counts the changes of a tensor, each at its end. So call this where no change is being made.
        """
        if self._settled.is_set() or not (wait or self._copied.is_set()):
            return False
        self._copied.wait()
        self._settle()
        return True

    def _copy_postponed(self) -> None:
        for _, value, buffer, _ in self._postponed:
            buffer.copy_(value)

    def _settle(self) -> None:
        with self._settling:
            if not self._settled.is_set():
                postponed, self._postponed = self._postponed, []
                self._changed = next((path for path, value, _, then in postponed if _version(value) != then), None)
                self._settled.set()

    def _check(self) -> None:
        if self._changed:
            raise ChangedError(f"{self._changed} was changed while it was copied")

    def _walk(self, path: str, value: Any) -> Any:  # noqa: ANN401
        kind = type(value)
        if kind in _ATOMS:
            return value
        if isinstance(value, Tensor):
            return self._tensor(path, value)
        if kind in (dict, OrderedDict) and all(type(key) in _KEYS for key in value):
            copy = kind((key, self._walk(f"{path}/{key}", item)) for key, item in value.items())
            if hasattr(value, "_metadata"):  # the versions of a module's parts, for load_state_dict
                copy._metadata = self._walk(f"{path}/_metadata", value._metadata)  # type: ignore[attr-defined]  # noqa: SLF001
            return copy
        if kind in (list, tuple):
            return kind(self._walk(f"{path}/{index}", item) for index, item in enumerate(value))
        if _is_number_of_numpy(value) and type(value.item()) in _ATOMS:
            return value.item()
        return _through_pickle(path, value)

    def _tensor(self, path: str, value: Tensor) -> Any:  # noqa: ANN401
        if is_sharded(value):
            if path in self.shards:
                raise UnsupportedError(f"two sharded tensors are called {path}; change a key on the way to one of them")
            self.shards[path] = value.detach()
            return {SHARDED: path}
        if type(value) not in (Tensor, torch.nn.Parameter):
            return _through_pickle(path, value.detach().cpu())
        if not self._copying:
            return None
        if value.layout is not torch.strided:
            return value.detach().to("cpu", copy=True)
        key = (value.data_ptr(), value.dtype, value.device, value.shape, value.stride())
        if value.numel() and key in self._copies:
            return self._copies[key]
        buffer = self._buffers.get(path)
        if buffer is None or path in self._used or buffer.shape != value.shape or buffer.dtype != value.dtype:
            buffer = torch.empty_like(value, device="cpu", requires_grad=False, pin_memory=value.is_cuda)
        if self._later and value.nbytes >= _LARGE_BYTES and not value.is_cuda and not value.is_inference():
            self._postponed.append((path, value.detach(), buffer, _version(value)))
        else:
            buffer.copy_(value.detach(), non_blocking=value.is_cuda)
        if value.is_cuda:
            self._gpus.add(value.device)
        self._used[path] = self._copies[key] = buffer
        return buffer


def _version(value: Tensor) -> int:
    return value._version  # noqa: SLF001 (the number of changes in place; PyTorch documents it for this purpose)


def _is_number_of_numpy(value: object) -> bool:
    """Return whether this is a numpy scalar, such as a learning rate computed with numpy, without importing numpy."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.generic)


def is_sharded(value: object) -> TypeGuard[Tensor]:
    """Return whether this is a DTensor, without the slow import of its module."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def _through_pickle(path: str, value: Any) -> Any:  # noqa: ANN401
    """Copy an unusual object by writing and reading it, as a snapshot would."""
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
        buffer.seek(0)
        return torch.load(buffer, weights_only=True)
    except Exception as error:
        # For a pickle, PyTorch's own message is long, and its advice does not apply here.
        detail = "" if isinstance(error, pickle.UnpicklingError) else f": {str(error).splitlines()[0]}"
        raise UnsupportedError(
            f"{path} is a {type(value).__module__}.{type(value).__qualname__}, which cannot be saved so that "
            f"torch.load(weights_only=True) reads it ({type(error).__name__}{detail}); use "
            "tensors, numbers, strings, and lists and dictionaries of them, or see torch.serialization.add_safe_globals"
        ) from error
