"""Reads untrusted pickles safely."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Mapping


def load(pickled: bytes, classes: Mapping[tuple[str, str], object]) -> object:
    """Return the value of a pickle. It can refer only to these classes, by module and name.

    A pickle can change the classes that it is given. It can raise nearly any exception.
    """

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> object:
            if (module, name) not in classes:
                raise pickle.UnpicklingError(f"refused to load {module}.{name}")
            return classes[module, name]

    _check_opcodes(pickled)
    return Unpickler(io.BytesIO(pickled)).load()


def _argument_lengths() -> tuple[dict[int, int], dict[int, int]]:
    """Return, by code, how long the arguments of a pickle's operations are, and how long the lengths before them."""
    counted = {
        pickletools.TAKEN_FROM_ARGUMENT1: 1,
        pickletools.TAKEN_FROM_ARGUMENT4: 4,
        pickletools.TAKEN_FROM_ARGUMENT4U: 4,
        pickletools.TAKEN_FROM_ARGUMENT8U: 8,
    }
    fixed, prefixed = {}, {}
    for operation in pickletools.opcodes:
        size = 0 if operation.arg is None else operation.arg.n
        if size >= 0:
            fixed[ord(operation.code)] = size
        elif size in counted:
            prefixed[ord(operation.code)] = counted[size]
    del fixed[ord(pickle.LONG_BINPUT)]  # takes memory for as many entries as it likes
    return fixed, prefixed


_FIXED, _PREFIXED = _argument_lengths()


def _check_opcodes(pickled: bytes) -> None:
    """Reject operations of old protocols: torch uses none, and one can use all memory. Raises KeyError."""
    position, end = 0, len(pickled)
    while position < end:
        code = pickled[position]
        if code in _FIXED:
            position += 1 + _FIXED[code]
        else:
            start = position + 1 + _PREFIXED[code]
            position = start + int.from_bytes(pickled[position + 1 : start], "little")
