"""Generators: saves and restores the states of the random number generators of all ranks."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

State = dict[str, Any]


def capture() -> State:
    """Return the states of Python's and PyTorch's generators, of NumPy's if it is loaded, and of the GPU's if used.

    They consist of tensors and numbers, so that ``torch.load`` reads them with ``weights_only=True``.
    """
    version, words, gauss = random.getstate()
    states: State = {"python": [version, torch.tensor(words), gauss], "torch": torch.get_rng_state()}
    if "numpy" in sys.modules:
        name, key, position, has_gauss, cached = sys.modules["numpy"].random.get_state()
        states["numpy"] = [name, torch.tensor(key.tolist()), position, has_gauss, cached]
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore(saved: Sequence[State], rank: int) -> None:
    """Set the generators of this process to the saved states of this rank.

    A rank that did not exist then gets the states of the others if these were all the same; otherwise it gets a stream
    of its own, derived from the states of rank 0.
    """
    for name, (set_state, seed) in _GENERATORS.items():
        states = [states[name] for states in saved if name in states]
        if name == "cuda" and not torch.cuda.is_available():
            continue
        if rank < len(states):
            set_state(states[rank])
        elif states:
            first = _digest(states[0])
            if all(_digest(state) == first for state in states):
                set_state(states[0])
            else:
                seed(int.from_bytes(hashlib.sha256(first + str(rank).encode()).digest()[:4]))


def _digest(state: Any) -> bytes:  # noqa: ANN401
    parts = [part.tolist() if isinstance(part, torch.Tensor) else part for part in _parts(state)]
    return hashlib.sha256(repr(parts).encode()).digest()


def _parts(state: Any) -> list[Any]:  # noqa: ANN401
    return state if isinstance(state, list) else [state]


def _set_python(state: Any) -> None:  # noqa: ANN401
    version, words, gauss = state
    random.setstate((version, tuple(words.tolist()), gauss))


def _set_numpy(state: Any) -> None:  # noqa: ANN401
    if "numpy" in sys.modules:
        name, key, position, has_gauss, cached = state
        sys.modules["numpy"].random.set_state((name, key.tolist(), position, has_gauss, cached))


def _seed_numpy(seed: int) -> None:
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)


_GENERATORS: dict[str, tuple[Callable[[Any], object], Callable[[int], object]]] = {
    "python": (_set_python, random.seed),
    "torch": (torch.set_rng_state, torch.default_generator.manual_seed),
    "numpy": (_set_numpy, _seed_numpy),
    "cuda": (torch.cuda.set_rng_state, torch.cuda.manual_seed),
}
