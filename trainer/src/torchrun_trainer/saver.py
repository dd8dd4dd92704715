"""Saver: takes the snapshots of a run beside its training, and restores the newest good one on all ranks."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from torchrun_trainer import generators, snapshot
from torchrun_trainer.owner import OwnedError, Owner
from torchrun_trainer.snapshot import FORMAT, Snapshot, SnapshotError
from torchrun_trainer.staging import ChangedError, Staging, UnsupportedError
from torchrun_trainer.world import rank_and_size

logger = logging.getLogger(__name__)

MOST_FAILURES = 3
"""So many snapshots in a row may fail to be written before the training ends."""


class Stateful(Protocol):
    """Whatever can be saved and restored: modules, optimizers, schedulers, scalers, your own counters."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state: tensors, numbers, strings, and lists and dictionaries of them."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:  # noqa: ANN401
        """Take over such a state."""


class Saver:
    """The snapshots of a run; used on all ranks alike.

    Saving copies the state and leaves the writing to a thread, and so it does the copying of what only an optimizer's
    next step changes: that step waits for it. One snapshot at a time is on its way: the next one waits for it.
    ``newest`` is the newest that is complete (on rank 0); the last one has kept the training waiting for ``blocked``
    seconds.

    Raises:
        SnapshotError: the place cannot be written, or belongs to another run that lives; the state holds what cannot be
            saved; ``keep_best`` in a place for one file.

    """

    def __init__(
        self,
        location: str | Path,
        state: Mapping[str, Stateful],
        *,
        keep: int = 2,
        keep_best: str | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.newest: Snapshot | None = None
        self.blocked: float | None = None
        self._state = dict(state)
        self._keep = keep
        self._keep_best = keep_best
        self._metric = (keep_best or "").removeprefix("-")
        self._value: float | Tensor = math.nan
        self._best = self._best_before = -math.inf
        self._rank, self._world_size = rank_and_size()
        self._device = device or torch.device("cpu")
        self._place = snapshot.place(location)
        if keep_best and self._place.single:
            raise SnapshotError(f"keep_best needs a directory, and {location} is a file")
        self._staging = Staging()
        self._look_through()
        self._optimizers = {
            name: stateful
            for name, stateful in self._state.items()
            # Wrappers such as Accelerate's are Optimizers by name only, and tell nobody when they step.
            if isinstance(stateful, torch.optim.Optimizer) and hasattr(stateful, "_optimizer_step_pre_hooks")
        }
        self._hooks: list[RemovableHandle] = []
        self._owner = Owner(self._place.storage, f".{self._place.single or 'snapshots'}.owner")
        self._token = self._on_rank_0(self._take)
        self._saves = 0
        self._generators: list[generators.State] = []
        self._writer: Any = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._failures = 0

    def restore(self) -> int:
        """Restore every object from the newest good snapshot; return the number of steps it was taken after.

        Raises SnapshotError if there are snapshots but none that is good and fits.
        """
        found = self._newest_good()
        if found is None:
            return 0
        document = snapshot.read(self._place, found, verify=self._rank != 0)
        states = _checked(document, found)
        if states.keys() != self._state.keys():
            raise SnapshotError(
                f"snapshot {found.location} holds {sorted(states)}, but this run has {sorted(self._state)}"
            )
        self._load(found, states)
        self._generators = document.get("generators", [])
        self.newest = found
        return int(document["step"])

    def begin(self) -> None:
        """Say that the steps begin: the random number generators go on from here as they did at the snapshot."""
        self._on_rank_0(self._take)
        saved, self._generators = self._generators, []
        generators.restore(saved, self._rank)

    def rate(self, **metrics: Any) -> None:  # noqa: ANN401
        """Take note of the current step's figures, of which ``keep_best`` names one."""
        value = metrics.get(self._metric)
        if value is not None:
            self._value = value.detach() if isinstance(value, Tensor) else value

    def improved(self) -> bool:
        """Return whether the step has a figure that is better than ever; to be asked on rank 0."""
        return self._rating(float(self._value)) > self._best

    def _rating(self, value: float) -> float:
        if math.isnan(value):
            return -math.inf
        return -value if self._keep_best != self._metric else value

    def step_done(self, step: int, *, due: bool, wait: bool) -> None:
        """End a step, on all ranks at once: take a snapshot if one is due. Raises as ``save`` and ``look`` do."""
        self.look()
        if due:
            self.save(step, wait=wait)
        self._value = math.nan

    def save(self, step: int, *, wait: bool) -> None:
        """Take a snapshot, on all ranks at once; ``wait`` until it is complete, and raise if it cannot be.

        Raises SnapshotError for a state that cannot be saved, and as ``look`` does.
        """
        began = time.monotonic()
        self.finish()
        self.look()
        staged = self._staged(step)
        if staged is not None:
            self._start_writing(step, *staged)
        if wait:
            self.finish()
            error, self._error = self._error, None
            if error:
                raise SnapshotError(f"the snapshot of step {step} could not be written: {error}") from error
        self.blocked = time.monotonic() - began

    def _start_writing(self, step: int, document: dict[str, Any], shards: dict[str, Any] | None) -> None:
        facts = self._facts()
        self._saves += 1
        if shards is not None:
            facts["shards"] = f"{self._token[:8]}{self._saves:04x}"
        if self._rank != 0 and shards is None:
            return
        if self._staging.postponed:
            self._hooks = [o.register_step_pre_hook(self._await_copy) for o in self._optimizers.values()]
        arguments = (step, document, shards, facts)
        # No daemon: the interpreter does not end before it is through.
        thread = threading.Thread(target=self._write, args=arguments, name="torchrun-trainer-snapshot")
        try:
            thread.start()
        except RuntimeError as error:  # there are as many as there may be
            logger.warning("training waits for this snapshot: %s", error)
            self._staging.complete_here()
            self._write(*arguments)
        else:
            self._thread = thread

    def _await_copy(self, *_: object) -> None:
        """Have an optimizer's step wait until its state has been copied."""
        began = time.monotonic()
        if self._staging.settle():
            self.blocked = (self.blocked or 0.0) + time.monotonic() - began

    def _facts(self) -> dict[str, str]:
        """Return what the snapshot's name is to say, and remember how good it is."""
        value = float(self._value)
        self._best_before, self._best = self._best, max(self._best, self._rating(value))
        return {} if math.isnan(value) else {self._metric: f"{value:.9g}"}

    def look(self) -> None:
        """See what has become of the snapshot on its way; costs nothing.

        One that could not be written is a warning: the training goes on, and the next one is tried. Raises
        SnapshotError for the third in a row, and when another process has taken the place.
        """
        self._staging.settle(wait=False)
        error = self._error
        if error is None:
            return
        self._error = None
        if self._rank != 0:
            return  # rank 0 hears of it too
        if isinstance(error, OwnedError):
            raise SnapshotError(f"{error}: this process must not write there any more") from error
        self._failures += 1
        if self._failures >= MOST_FAILURES:
            raise SnapshotError(f"{self._failures} snapshots in a row could not be written: {error}") from error
        self._warn(error)

    def _warn(self, error: BaseException) -> None:
        since = f"that of step {self.newest.step} is the newest" if self.newest else "there is none yet"
        logger.warning("a snapshot could not be written, %s: %s: %s", since, type(error).__name__, error)

    def busy(self) -> bool:
        """Return whether a snapshot is on its way."""
        return self._thread is not None and self._thread.is_alive()

    def finish(self) -> None:
        """Wait for the snapshot on its way."""
        if self._thread:
            self._staging.settle()
            self._thread.join()
            self._thread = None
        while self._hooks:
            self._hooks.pop().remove()

    def close(self) -> None:
        """Wait for the snapshot on its way and give the place up; ``begin`` takes it again."""
        self.finish()
        error, self._error = self._error, None
        if error and self._rank == 0:
            self._warn(error)
        self._owner.release()

    def _look_through(self) -> dict[str, dict[str, Any]]:
        """Return all states as they are now. Raises SnapshotError if there is something in them that no file takes."""
        states = {name: stateful.state_dict() for name, stateful in self._state.items()}
        try:
            self._staging.stage(states, copy=False)
        except UnsupportedError as error:
            raise SnapshotError(str(error)) from error
        return states

    def _take(self) -> str:
        self._place.storage.prepare()
        self._owner.acquire()
        snapshot.clean(self._place)
        return self._owner.token

    def _on_rank_0(self, action: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Do something on rank 0; have all ranks return what it returns, or raise its error as a SnapshotError."""
        outcome: list[Any] = [None]
        if self._rank == 0:
            try:
                outcome = [action()]
            except SnapshotError as error:
                outcome = [error]
            except Exception as error:
                kind = "" if isinstance(error, OwnedError) else f"{type(error).__name__}: "
                outcome = [SnapshotError(f"{self._place.location} cannot be used for snapshots: {kind}{error}")]
        if self._world_size > 1:
            dist.broadcast_object_list(outcome, src=0, device=self._device)
        if isinstance(outcome[0], SnapshotError):
            raise outcome[0]
        return outcome[0]

    def _newest_good(self) -> Snapshot | None:
        """Find the newest snapshot all of whose files are good; each rank looks at its part of the shards."""
        while True:
            found: Snapshot | None = self._on_rank_0(self._newest_head)
            if found is None or found.shards is None:
                break
            reasons = [reason for reason in self._everybodys(self._damage(found)) if reason]
            if not reasons:
                break
            self._on_rank_0(partial(snapshot.set_aside, self._place, found, reasons[0]))
        if found and self._rank == 0 and self._keep_best:
            best = snapshot.best_of(snapshot.available(self._place.location), self._keep_best)
            if best:
                self._best = self._rating(best.metric(snapshot.fact_name(self._metric)))
        return found

    def _newest_head(self) -> Snapshot | None:
        for candidate in snapshot.available(self._place.location):
            reason = snapshot.head_damage(self._place, candidate)
            if reason is None:
                return candidate
            snapshot.set_aside(self._place, candidate, reason)
        snapshot.nothing_left(self._place)
        return None

    def _damage(self, found: Snapshot) -> str | None:
        from torchrun_trainer import sharded  # noqa: PLC0415 (it takes long)

        assert found.shards
        files = snapshot.manifest(snapshot.read(self._place, found))
        return sharded.damage(self._place.storage, found.shards, files, self._rank, self._world_size)

    def _everybodys(self, value: Any) -> list[Any]:  # noqa: ANN401
        everybody: list[Any] = [value] * self._world_size
        if self._world_size > 1:
            dist.all_gather_object(everybody, value)
        return everybody

    def _load(self, found: Snapshot, states: Mapping[str, Any]) -> None:
        live = self._look_through()
        here, reader = bool(self._staging.shards), None
        if found.shards or here:
            from torchrun_trainer import sharded  # noqa: PLC0415 (it takes long)

            reader = sharded.Reader(self._place.storage, found.shards)
        for name, stateful in self._state.items():
            try:
                state = reader.fill(name, states[name], live[name], stateful) if reader else states[name]
                stateful.load_state_dict(state)
            except Exception as error:
                raise SnapshotError(f"snapshot {found.location} does not fit {name!r}: {error}") from error

    def _staged(self, step: int) -> tuple[dict[str, Any], dict[str, Any] | None] | None:
        """Copy the state; return the document for the snapshot's file, and this rank's shards if there are any.

        None: the state of some rank cannot be saved any more, which is a snapshot that fails like any other.
        """
        states = {name: stateful.state_dict() for name, stateful in self._state.items()}
        copy, problem = {}, None
        try:
            copy = self._staging.stage(states, copy=self._rank == 0, later=self._optimizers)
        except UnsupportedError as error:
            problem = error
        document = {"format": FORMAT, "step": step, "state": copy, "generators": self._gathered(generators.capture())}
        sharded_anywhere, problem_anywhere = self._anywhere(bool(self._staging.shards), problem is not None)
        if problem_anywhere:
            self._error = problem or SnapshotError("the state of another rank cannot be saved, as its log says")
            if problem and self._rank != 0:
                self._warn(problem)
            return None
        if not sharded_anywhere:
            return document, None
        if self._place.single:
            raise SnapshotError(f"sharded state needs a directory, and {self._place.location} is a file")
        # All ranks write together: none may find out later that its copy is of no use.
        self._staging.complete_here()
        if self._writer is None:
            from torchrun_trainer import sharded  # noqa: PLC0415 (it takes long)

            self._writer = sharded.Writer(self._place.storage)
        return document, self._writer.stage(self._staging.shards)

    def _gathered(self, value: Any) -> list[Any]:  # noqa: ANN401
        """Return on rank 0 the values of all ranks."""
        everybody = [value] * self._world_size
        if self._world_size > 1:
            dist.gather_object(value, everybody if self._rank == 0 else None, dst=0)
        return everybody

    def _anywhere(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is true on any rank."""
        if self._world_size == 1:
            return list(flags)
        anywhere = torch.tensor(flags, dtype=torch.int32, device=self._device)
        dist.all_reduce(anywhere, dist.ReduceOp.MAX)
        return [bool(flag) for flag in anywhere.tolist()]

    def _write(self, step: int, document: dict[str, Any], shards: dict[str, Any] | None, facts: dict[str, str]) -> None:
        """Bring a staged snapshot to where it belongs; runs in a thread of its own."""
        directory = None if shards is None else snapshot.shards_directory(step, facts)
        try:
            self._staging.complete()
            if directory and shards is not None:
                files = self._writer.write(directory, shards)
                document["shards"] = {name: list(file) for name, file in files.items()}
            if self._rank == 0:
                self._publish(step, document, directory, facts)
        except Exception as error:
            self._error = error
            self._best = self._best_before
            if isinstance(error, ChangedError):
                self._optimizers.clear()  # the next snapshots copy everything at once
            if directory and self._rank == 0 and not (self.newest and self.newest.shards == directory):
                with contextlib.suppress(Exception):
                    self._place.storage.remove(directory)

    def _publish(self, step: int, document: dict[str, Any], directory: str | None, facts: dict[str, str]) -> None:
        self._owner.check()
        if directory:
            self._place.storage.settle(directory)
        self.newest = snapshot.write(self._place, step, document, facts)
        self._failures = 0
        snapshot.prune(self._place, self.newest, self._keep, self._keep_best)


def _checked(document: Mapping[str, Any], found: Snapshot) -> dict[str, Any]:
    """Return the states in a snapshot. Raises SnapshotError if ``Run`` did not write it, or a newer one did."""
    version = document.get("format", 1)
    if isinstance(version, int) and version > FORMAT:
        raise SnapshotError(
            f"snapshot {found.location} has format {version}, this library knows those up to {FORMAT}: "
            "install the torchrun-trainer that wrote it, or a newer one"
        )
    states = document.get("state")
    if not isinstance(version, int) or not isinstance(states, dict) or not isinstance(document.get("step"), int):
        raise SnapshotError(
            f"{found.location} was not written by Run: it holds {sorted(map(str, document))}; "
            "give another snapshot path, or move it away to start from the beginning"
        )
    return states
