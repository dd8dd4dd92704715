"""Staging: copies a state into memory that training does not touch, and says what of it cannot be saved."""

from __future__ import annotations

import io
import sys
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor

SHARDED = "torchrun_trainer.sharded"
"""The only key of the dictionary that stands in a staged state where a sharded tensor was; its value is its name."""

_ATOMS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
_KEYS = (str, int, float, bool)


class UnsupportedError(ValueError):
    """Something in a state could not be read back with ``weights_only=True``; says where it is."""


class ChangedError(RuntimeError):
    """A tensor was changed before it was copied."""


class Staging:
    """Makes copies of one state over and over, in the same memory each time.

    Tensors are copied to the CPU, to pinned memory from a GPU; those that share memory share it in the copy as well.
    A copy is good until the next one is made. Sharded tensors (DTensor) are not copied but collected in ``shards``.
    """

    def __init__(self) -> None:
        self.shards: dict[str, Tensor] = {}
        self._postponed: list[tuple[str, Tensor, Tensor, int]] = []
        self._later = False
        self._buffers: dict[str, Tensor] = {}
        self._used: dict[str, Tensor] = {}
        self._seen: dict[tuple[object, ...], Tensor] = {}
        self._copying = True
        self._gpus: set[torch.device] = set()

    def stage(self, state: Mapping[str, object], *, copy: bool = True, later: Collection[str] = ()) -> dict[str, Any]:
        """Return a copy of ``state``; without ``copy`` only look through it.

        Tensors in CPU memory that belong to the parts named in ``later`` may not change until ``complete`` has copied
        them too. Raises UnsupportedError for what ``torch.load(weights_only=True)`` would refuse.
        """
        self.shards, self._used, self._seen, self._copying = {}, {}, {}, copy
        self._postponed = []
        staged = {}
        for name, value in state.items():
            self._later = name in later
            staged[name] = self._walk(name, value)
        for device in self._gpus:
            torch.cuda.current_stream(device).synchronize()
        self._gpus.clear()
        if copy:
            self._buffers = self._used
        self._seen = {}
        return staged

    @property
    def postponed(self) -> bool:
        """Whether there is something left to copy."""
        return bool(self._postponed)

    def complete(self) -> None:
        """Copy what ``stage`` has left; raise ChangedError if something of it has been changed since."""
        postponed, self._postponed = self._postponed, []
        for path, value, buffer, version in postponed:
            buffer.copy_(value)
            if value._version != version:  # noqa: SLF001 (documented as what tells of changes in place)
                raise ChangedError(f"{path} was changed while it was copied")

    def _walk(self, path: str, value: Any) -> Any:  # noqa: ANN401
        kind = type(value)
        if kind in _ATOMS:
            return value
        if isinstance(value, Tensor):
            return self._tensor(path, value)
        if kind in (dict, OrderedDict) and all(type(key) in _KEYS for key in value):
            return kind((key, self._walk(f"{path}/{key}", item)) for key, item in value.items())
        if kind in (list, tuple):
            return kind(self._walk(f"{path}/{place}", item) for place, item in enumerate(value))
        return _through_pickle(path, value)

    def _tensor(self, path: str, value: Tensor) -> Any:  # noqa: ANN401
        if is_sharded(value):
            self.shards[path] = value.detach()
            return {SHARDED: path}
        if type(value) not in (Tensor, torch.nn.Parameter):
            return _through_pickle(path, value.detach().cpu())
        if not self._copying:
            return None
        if value.layout is not torch.strided:
            return value.detach().to("cpu", copy=True)
        key = (value.data_ptr(), value.dtype, value.device, value.shape, value.stride())
        if value.numel() and key in self._seen:
            return self._seen[key]
        buffer = self._buffers.get(path)
        if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
            buffer = torch.empty_like(value, device="cpu", requires_grad=False, pin_memory=value.is_cuda)
        if self._later and not value.is_cuda and not value.is_inference():
            self._postponed.append((path, value.detach(), buffer, value._version))  # noqa: SLF001
        else:
            buffer.copy_(value.detach(), non_blocking=value.is_cuda)
        if value.is_cuda:
            self._gpus.add(value.device)
        self._used[path] = self._seen[key] = buffer
        return buffer


def is_sharded(value: object) -> TypeGuard[Tensor]:
    """Return whether this is a DTensor, without importing what defines it: that would take long."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def _through_pickle(path: str, value: Any) -> Any:  # noqa: ANN401
    """Copy something unusual by writing and reading it: what that does not survive no snapshot would."""
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
        buffer.seek(0)
        return torch.load(buffer, weights_only=True)
    except Exception as error:
        raise UnsupportedError(
            f"{path} is a {type(value).__module__}.{type(value).__qualname__}, which cannot be saved so that "
            f"torch.load(weights_only=True) reads it ({type(error).__name__}: {str(error).splitlines()[0]}); give "
            "tensors, numbers, strings, and lists and dictionaries of them, or see torch.serialization.add_safe_globals"
        ) from error
