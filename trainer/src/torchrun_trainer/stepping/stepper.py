"""Stepper: takes a run from step to step. ``Run`` and the adapters for frameworks are built on it."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, NamedTuple, NoReturn

from torch import Tensor

from torchrun_trainer.launch.checks import check_launch
from torchrun_trainer.launch.ranks import Ranks
from torchrun_trainer.snapshots.saver import AnySaver
from torchrun_trainer.stepping.reporter import Reporter
from torchrun_trainer.stepping.world import World
from torchrun_trainer.watch.process import prepare
from torchrun_trainer.watch.progress import write_milestone
from torchrun_trainer.watch.stacks import answer_signal
from torchrun_trainer.watch.straggler import Stragglers
from torchrun_trainer.watch.termination import EXIT_CODE, Termination
from torchrun_trainer.watch.tracking import Tracker
from torchrun_trainer.watch.watchdog import Watchdog

logger = logging.getLogger(__name__)


def join() -> Ranks:
    """Check how this process was started, set it up for errors and signals, and return the ranks that it is one of.

    Raises LaunchError as ``check_launch`` does.
    """
    prepare()
    check_launch()
    answer_signal()
    return Ranks()


class Agreement(NamedTuple):
    """What one rank proposes after a step, and what all ranks then agree on: the largest value of each field.

    ``stop`` after this step; seconds of the collector's ``deadline``; ``compare`` the speed of the ranks; whether the
    step ``improved`` on all before; whether to ``report``.
    """

    stop: bool
    deadline: int
    compare: bool
    improved: bool
    report: bool

    def reach(self, ranks: Ranks) -> Agreement:
        """Return what all ranks agree on."""
        stop, deadline, compare, improved, report = ranks.largest(self)
        return Agreement(bool(stop), deadline, bool(compare), bool(improved), bool(report))


class _Session(NamedTuple):
    """What lives from the first step to the last."""

    first: int
    total: int
    termination: Termination
    watchdog: Watchdog


class Stepper:
    """Counts steps; after each one has the ranks agree, takes snapshots and reports.

    ``begin`` before the first step, ``step_done`` after each one, on all ranks; ``end`` after the last one or earlier.
    ``steps`` does all of it for a loop. ``step`` is the number of steps done.

    Args:
        world: who takes the steps together.
        saver: takes the snapshots.
        step: steps done so far.
        models: whose forward passes show how fast this rank is.
        trackers: what else shows the reports.
        snapshot_every: steps between two snapshots.
        report_seconds: time between two lines of progress.
        drain_seconds: how long a rank waits for its own SIGTERM after the ranks have agreed to stop.

    """

    def __init__(
        self,
        world: World,
        saver: AnySaver,
        *,
        step: int = 0,
        models: Iterable[Any] = (),
        trackers: Sequence[Tracker] = (),
        snapshot_every: int = 100,
        report_seconds: float = 1.0,
        drain_seconds: float = 60.0,
    ) -> None:
        self.step = step
        self._world, self._ranks = world, world.ranks
        self._saver = saver
        self._models = list(models)
        self._snapshot_every = snapshot_every
        self._drain_seconds = drain_seconds
        self._reporter = Reporter(self._ranks, trackers, report_seconds)
        self._stragglers = Stragglers(self._ranks.reached, self._ranks.device)
        self._session: _Session | None = None
        self._closers = ExitStack()

    @property
    def rank(self) -> int:
        """The rank of this process."""
        return self._ranks.rank

    @property
    def world_size(self) -> int:
        """The number of workers."""
        return self._ranks.size

    @property
    def joins_late(self) -> bool:
        """Whether the first step may be another one than that of the snapshot."""
        return self._world.joins_late

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self._session is None or self.step >= self._session.total

    def steps(self, total_steps: int) -> Generator[int]:
        """Yield the number of each step still to do; see ``Run.steps``."""
        completed = False
        self.begin(total_steps)
        try:
            while not self.finished:
                self.step = self._world.begin(self.step, self._wait)
                if self.step >= total_steps:  # the others have done more
                    break
                yield self.step
                if self._world.committed() and self.step_done():
                    self.leave()
            completed = True
        finally:
            self._world.close()
            self.end(completed=completed)

    def begin(self, total_steps: int) -> None:
        """Start what watches the steps up to ``total_steps``. Call it in the main thread.

        Raises SnapshotError if another run has taken the snapshot path.
        """
        if self._ranks.rank == 0:
            write_milestone("start", at=self.step, world=self.world_size)
        with ExitStack() as closers:
            closers.callback(self._reporter.close)
            self._reporter.open()
            watchdog = Watchdog(self._ranks.rank, self.step)
            closers.callback(watchdog.close)
            closers.callback(self._stragglers.close)
            closers.callback(self._saver.close)
            self._saver.begin()
            for model in self._models:
                self._stragglers.watch(model)
            self._stragglers.begin()
            termination = Termination(self._saver.busy)
            termination.open()
            self._closers = closers.pop_all()
        self._session = _Session(self.step, total_steps, termination, watchdog)

    def end(self, *, completed: bool) -> None:
        """Stop what watches the steps; ``completed`` unless they are cut short. Nothing happens without ``begin``."""
        session, self._session = self._session, None
        if session:
            with self._closers:
                session.termination.close(deliver=completed)

    def step_done(self) -> bool:
        """End a step on all ranks; return whether they have agreed to stop. All that was due is saved and reported.

        Raises SnapshotError if a snapshot cannot be written that must be.
        """
        session = self._running()
        self.step += 1
        agreed = self._agree(session)
        session.termination.step_done()
        last = agreed.stop or self.finished
        with session.termination.saving():
            due = last or agreed.improved or self.step % self._snapshot_every == 0
            self._saver.step_done(self.step, due=due, wait=last)
        if agreed.report or last or self.step == session.first + 1:
            self._reporter.report(self.step, session.total, self._saver, self._stragglers.found)
        return agreed.stop

    def saving(self) -> AbstractContextManager[None]:
        """Return a context in which a process that was told to stop has all the time that it needs."""
        return self._session.termination.saving() if self._session else contextlib.nullcontext()

    def leave(self) -> NoReturn:
        """Wait for this rank's own SIGTERM, then raise SystemExit with code 143."""
        session = self._running()
        self._world.close()
        if self._ranks.rank == 0:
            write_milestone("drain", at=self.step, snapshot=self._saver.newest.step if self._saver.newest else "none")
        session.watchdog.deadline = 0  # there are no more steps
        if not session.termination.wait(self._drain_seconds):
            logger.warning("another rank received SIGTERM %.0f s ago, this one did not; leaving", self._drain_seconds)
        raise SystemExit(EXIT_CODE)

    def report(
        self,
        *,
        loss: float | Tensor | None = None,
        samples: int = 0,
        epoch: int | None = None,
        **metrics: float | Tensor,
    ) -> None:
        """Note how the current step went; see ``Run.report``."""
        self._saver.rate(loss=loss, **metrics)
        self._reporter.record(loss, samples, epoch, metrics)

    def alive(self) -> None:
        """Note that this rank makes progress between two steps; see ``Run.alive``."""
        if self._session:
            self._session.termination.alive()
            self._session.watchdog.alive(self.step)
            self._reporter.alive()

    def _wait(self) -> None:
        """Note that no step can begin; leave if that is asked for."""
        session = self._running()
        session.termination.alive()
        session.watchdog.alive(self.step)
        (requested,) = self._ranks.anywhere(session.termination.requested)
        if requested:
            with session.termination.saving():
                self._saver.step_done(self.step, due=True, wait=True)
            self.leave()

    def _running(self) -> _Session:
        assert self._session, "begin() comes first"
        return self._session

    def _agree(self, session: _Session) -> Agreement:
        """Have the ranks agree on what comes after this step, and compare their speed if that is due."""
        first, several = self._ranks.rank == 0, self._ranks.reached > 1
        improved, report = first and self._saver.improved(), self._reporter.due()
        deadline = math.ceil(self._reporter.deadline)
        if several:
            self._stragglers.arrived()
        compare = several and first and self._stragglers.due()
        proposal = Agreement(session.termination.requested, deadline, compare, improved, report)
        agreed = proposal.reach(self._ranks)
        if several:
            self._stragglers.agreed()
        if agreed.compare and not agreed.stop:
            self._stragglers.compare()
        session.watchdog.deadline = agreed.deadline
        session.watchdog.alive(self.step)
        return agreed
