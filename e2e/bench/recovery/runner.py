"""Runs the repetitions: a training job, a fault, a watched recovery, and the repair of the cluster."""

import itertools
import os
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.recovery.faults import Fault, Scene
from bench.recovery.lines import Line, steps_of
from bench.recovery.metrics import curve, first_new_step, measure, restarted
from bench.recovery.systems import System
from bench.recovery.watched import Watched
from localcluster.shell import ClusterError
from support.kubectl import Kubectl, KubectlError
from support.waiting import NotInTimeError, wait_for

_START_SECONDS = 180.0
_SETTLE_SECONDS = 4.0
"""How long a job trains at its size before a fault, so that every agent has sent a heartbeat."""
_WHOLE_SECONDS = 15.0
_AFTERWARDS_SECONDS = 2.0
_IN_VAIN = 2
"""After that many failures to recover in a row, a system is not measured again for that fault."""

_KEPT_SECONDS = 8.0
"""How long workers must train on beside a new store: agents that end without a store do so within 2 s."""

Record = dict[str, Any]


def _over(job: Watched, fault: Fault, served: str, began: float, world: int | None) -> Callable[[Iterable[Line]], bool]:
    """Return what tells from the lines of the job that it has recovered from the fault."""
    back: list[float] = []

    def kept(lines: Iterable[Line]) -> bool:
        if not back and job.serving() not in ("", served):
            back.append(time.time())
        steps = steps_of(lines)
        alive = bool(steps) and time.time() - steps[-1].time < 1.0
        return alive and bool(back) and time.time() - back[0] > _KEPT_SECONDS and not restarted(lines, began)

    def over(lines: Iterable[Line]) -> bool:
        return first_new_step(lines, began, world) is not None or (fault.survivable and kept(lines))

    return over


@dataclass
class Runner:
    """One system, fault by fault."""

    kubectl: Kubectl
    system: System
    limit: float
    """Seconds after which a job counts as not recovered."""
    report: Callable[[Record], None]
    _job: Watched | None = None
    _numbers: Iterable[int] = field(default_factory=itertools.count)
    _in_vain: dict[str, int] = field(default_factory=dict)

    def close(self) -> None:
        """Delete the last job."""
        if self._job is not None:
            job, self._job = self._job, None
            job.close()

    def repetition(self, fault: Fault, number: int) -> None:
        """Do one repetition and report it, or report its error."""
        if self._in_vain.get(fault.name, 0) >= _IN_VAIN:
            return
        record: Record = {"system": self.system.name, "fault": fault.name, "repetition": number}
        try:
            record |= self._measured(fault)
        except (NotInTimeError, KubectlError, ClusterError, LookupError) as error:
            record |= {"error": str(error)}
            self.close()
        in_vain = record.get("next_step_seconds") is None
        self._in_vain[fault.name] = self._in_vain.get(fault.name, 0) + 1 if in_vain else 0
        self.report(record)

    def _measured(self, fault: Fault) -> Record:
        job = self._created(fault.before) if fault.fresh else self._trained(fault.before)
        before = {} if fault.fresh else self._restarts(job)
        shrinks = fault.name in self.system.shrinks
        with ExitStack() as undo:
            scene = Scene(self.kubectl, job, undo)
            served = job.serving() if fault.survivable else ""
            act = fault.prepare(scene)
            began = time.time()
            act()
            aim = None if shrinks else fault.after
            over = _over(job, fault, served, began, aim)
            if job.wait(over, began + self.limit):
                time.sleep(_AFTERWARDS_SECONDS)
            until, not_ready = time.time(), scene.not_ready()
            lines = job.lines()
        memory = job.memory() if fault.fresh else {}
        after = self._restarts(job)
        return {
            "time": round(began, 3),
            "load": round(os.getloadavg()[0], 2),
            "watched_seconds": round(until - began, 1),
            **asdict(measure(lines, began, fault.after, until, self.limit, kept=fault.survivable)),
            "not_ready_seconds": None if not_ready is None else round(not_ready - began, 2),
            "restarts": {cause: after[cause] - before[cause] for cause in after if cause in before},
            "curve": curve(lines, began, until),
            **memory,
        }

    def _created(self, nodes: int) -> Watched:
        """Return a job that is to be started."""
        self.close()
        self._job = Watched(self.kubectl, self.system, f"{self.system.name}-{next(iter(self._numbers))}", nodes)
        return self._job

    def _trained(self, nodes: int) -> Watched:
        """Return a job of that size that has trained for a while, if possible the last one. Raises NotInTimeError."""
        if self._job is not None and not self._usable(self._job):
            self.close()
        if self._job is None:
            job = self._created(nodes)
            job.start()
        else:
            job = self._job
            if job.nodes != nodes:
                job.scale(nodes)
        if not job.trains(nodes, _SETTLE_SECONDS, time.time() + _START_SECONDS):
            raise NotInTimeError(f"{job.name} does not train with {nodes} nodes within {_START_SECONDS:.0f} s")
        return job

    def _usable(self, job: Watched) -> bool:
        if job.is_worn():
            return False
        try:
            return bool(wait_for("all pods to run", job.is_whole, _WHOLE_SECONDS))
        except NotInTimeError:
            return False

    def _restarts(self, job: Watched) -> dict[str, int]:
        """Return the restarts so far; empty if the system does not settle or does not count."""
        found: dict[str, int] = {}

        def settled() -> bool:
            counted = self.system.restarts(job.name)
            found.update(counted or {})
            return counted is not None

        try:
            wait_for("the restarts to be counted", settled, _WHOLE_SECONDS)
        except NotInTimeError:
            return {}
        return found
