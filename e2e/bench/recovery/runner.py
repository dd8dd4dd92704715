"""Runs the repetitions: a training job, a fault, a watched recovery, and the repair of the cluster."""

import itertools
import os
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.recovery.faults import Fault, Scene
from bench.recovery.metrics import curve, first_new_step, measure
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

Record = dict[str, Any]


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
        job = self._trained(fault.before)
        before = self._restarts(job)
        shrinks = fault.name in self.system.shrinks
        with ExitStack() as undo:
            scene = Scene(self.kubectl, job, undo)
            act = fault.prepare(scene)
            began = time.time()
            act()
            aim = None if shrinks else fault.after
            if job.wait(lambda lines: first_new_step(lines, began, aim) is not None, began + self.limit):
                time.sleep(_AFTERWARDS_SECONDS)
            until, not_ready = time.time(), scene.not_ready()
            lines = job.lines()
        after = self._restarts(job)
        return {
            "time": round(began, 3),
            "load": round(os.getloadavg()[0], 2),
            "watched_seconds": round(until - began, 1),
            **asdict(measure(lines, began, fault.after, until, self.limit)),
            "not_ready_seconds": None if not_ready is None else round(not_ready - began, 2),
            "restarts": {cause: after[cause] - before[cause] for cause in after if cause in before},
            "curve": curve(lines, began, until),
        }

    def _trained(self, nodes: int) -> Watched:
        """Return a job of that size that has trained for a while, if possible the last one. Raises NotInTimeError."""
        if self._job is not None and not self._usable(self._job):
            self.close()
        if self._job is None:
            name = f"{self.system.name}-{next(iter(self._numbers))}"
            self._job = Watched(self.kubectl, self.system, name, nodes)
        elif self._job.nodes != nodes:
            self._job.scale(nodes)
        if not self._job.trains(nodes, _SETTLE_SECONDS, time.time() + _START_SECONDS):
            raise NotInTimeError(f"{self._job.name} does not train with {nodes} nodes within {_START_SECONDS:.0f} s")
        return self._job

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
