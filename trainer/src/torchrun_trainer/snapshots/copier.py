"""Copier: copies the objects of a run for one snapshot after another, while an optimizer waits for its own copy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch.utils.hooks import RemovableHandle

from torchrun_trainer.launch.ranks import Ranks
from torchrun_trainer.snapshots import generators
from torchrun_trainer.snapshots.place import Place
from torchrun_trainer.snapshots.snapshot import SnapshotError
from torchrun_trainer.snapshots.staging import ChangedError, Staging, UnsupportedError

FORMAT = 2
"""The format that ``Run`` writes. Format 1, without a key for it, held ``step`` and ``state`` only."""


class Stateful(Protocol):
    """An object that can be saved and restored: a module, optimizer, scheduler, scaler, or your own counter."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state: tensors, numbers, strings, and lists and dictionaries of them."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:  # noqa: ANN401
        """Restore such a state."""


@dataclass(frozen=True)
class Copied:
    """The copy for one snapshot: the document for its file, and what writes the shards of this rank, if any.

    ``complete`` finishes the copy before anything is written. Raises ChangedError if something changed meanwhile.
    """

    step: int
    document: dict[str, Any]
    complete: Callable[[], None]
    write_shards: Callable[[str], Mapping[str, tuple[int, str]]] | None = None


class Copier:
    """Copies the state of all objects; the memory of a copy is used again for the next one.

    The large tensors of an optimizer change only in its steps, so a thread copies them: ``Copied.complete``. While
    ``guard`` is in place, a step of the optimizer waits for that. ``waited`` is for how many seconds it has.
    """

    def __init__(self, state: Mapping[str, Stateful], at: Place, ranks: Ranks) -> None:
        self.state = dict(state)
        self.waited = 0.0
        self._place = at
        self._ranks = ranks
        self._staging = Staging()
        self._optimizers = {
            name: stateful
            for name, stateful in self.state.items()
            # Wrappers such as Accelerate's are optimizers by name only, and do not announce their steps.
            if isinstance(stateful, torch.optim.Optimizer) and hasattr(stateful, "_optimizer_step_pre_hooks")
        }
        self._hooks: list[RemovableHandle] = []
        self._shard_writer: Any = None

    @property
    def sharded(self) -> bool:
        """Whether the state last looked through or copied has sharded tensors."""
        return bool(self._staging.shards)

    def look_through(self) -> dict[str, dict[str, Any]]:
        """Return all states as they are now. Raises SnapshotError if something in them cannot be saved."""
        states = self._states()
        try:
            self._staging.stage(states, copy=False)
        except UnsupportedError as error:
            raise SnapshotError(str(error)) from error
        return states

    def copy(self, step: int) -> Copied | UnsupportedError | SnapshotError:
        """Copy the state, on all ranks; return the reason instead if the state of some rank can no longer be saved.

        Raises SnapshotError if something is sharded and the place is a file.
        """
        self.waited = 0.0
        state, problem = {}, None
        try:
            state = self._staging.stage(self._states(), copy=self._ranks.rank == 0, later=self._optimizers)
        except UnsupportedError as error:
            problem = error
        everybodys = self._ranks.values_on_rank_0(generators.capture())
        document = {"format": FORMAT, "step": step, "state": state, "generators": everybodys}
        sharded_anywhere, problem_anywhere = self._ranks.anywhere(self.sharded, problem is not None)
        if problem_anywhere:
            return problem or SnapshotError("the state of another rank cannot be saved, see its log")
        if not sharded_anywhere:
            return Copied(step, document, self._complete)
        if self._place.single:
            raise SnapshotError(f"sharded state needs a directory, and {self._place.location} is a file")
        # All ranks write together: none of them may find out later that its copy is useless.
        self._staging.complete_here()
        if self._shard_writer is None:
            from torchrun_trainer.snapshots.sharded import ShardWriter  # noqa: PLC0415 (a slow import)

            self._shard_writer = ShardWriter(self._place.storage)
        shards = self._shard_writer.stage(self._staging.shards)
        return Copied(step, document, self._complete, partial(self._shard_writer.write, staged=shards))

    def guard(self) -> None:
        """Make the next steps of the optimizers wait until their state is copied."""
        if self._staging.postponed:
            self._hooks = [each.register_step_pre_hook(self._await_copy) for each in self._optimizers.values()]

    def unguard(self) -> None:
        """Let the optimizers step freely."""
        while self._hooks:
            self._hooks.pop().remove()

    def complete_here(self) -> None:
        """Finish the copy in the thread that trains. Raises ChangedError."""
        self._staging.complete_here()

    def settle(self, *, wait: bool) -> None:
        """Find out, where nothing is being changed, whether the copy is good; see ``Staging.settle``."""
        self._staging.settle(wait=wait)

    def _states(self) -> dict[str, dict[str, Any]]:
        return {name: stateful.state_dict() for name, stateful in self.state.items()}

    def _complete(self) -> None:
        try:
            self._staging.complete()
        except ChangedError:
            self._optimizers.clear()  # the next snapshots copy everything at once
            raise

    def _await_copy(self, *_: object) -> None:
        began = time.monotonic()
        if self._staging.settle():
            self.waited += time.monotonic() - began
