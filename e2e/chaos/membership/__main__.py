"""Applies random faults to one elastic job on the local cluster and checks it: `make chaos-membership`."""

import argparse
import json
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from chaos.membership.faults import Faults
from chaos.membership.plan import Kind, Planned, planned
from chaos.membership.records import MIN, Fault, Group, Sample, Violation
from chaos.membership.report import Evidence, judged, told, told_fault
from chaos.membership.scene import Scene, has_settled
from localcluster.paths import node_name
from support.clusters import ROOT, UnusableError
from support.machines import cluster_of

_MACHINES = 4
"""Three for the job, and one for the operator, which has no faults except in its pod."""
_REPLICAS = 4
_START_SECONDS = 180.0
_SETTLE_SECONDS = 120.0
_FINISH_SECONDS = 240.0
_EVERY_SECONDS = 0.7
_SAID_SECONDS = 20.0


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="chaos.membership", description=__doc__)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None, help="seed of an earlier run, to repeat it")
    parser.add_argument("--minutes", type=float, default=60.0, help="no more faults after that many")
    parser.add_argument("--only", nargs="+", type=Kind, default=list(Kind), metavar="KIND", help="kinds of faults")
    parser.add_argument("--json", type=Path, default=None, help="file for the report")
    logs = ROOT / ".work" / "chaos-membership"
    parser.add_argument(
        "--logs", type=Path, default=logs, help="directory for the logs of operator and rendezvous host"
    )
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(2**32)
    return options


class Run:
    """One run from the first fault to the end of the job."""

    def __init__(self, scene: Scene, faults: Faults, options: argparse.Namespace) -> None:
        self._scene = scene
        self._faults = faults
        self._options = options
        self._done: list[Fault] = []
        self._groups: list[Group] = []
        self._wrong: list[Violation] = []
        self._settled: Sample | None = None
        """The job before the faults of the current group."""
        self._began = time.time()
        self._said = 0.0

    def evidence(self) -> Evidence:
        """Run all faults. Returns the records."""
        self._began = time.time()
        try:
            self._all()
        except KeyboardInterrupt:
            self._violated("interrupted", "what follows is about the time before")
            self._faults.put_right(float("inf"))
        journal, last = self._scene.journal, self._scene.look()
        self._close_group(last, settled=False)
        ended = journal.steps[-1].time if last.state == "Complete" and journal.steps else last.time
        left = self._scene.delete()
        if left:
            self._violated("left", ", ".join(left))
        return Evidence(
            seed=self._options.seed,
            began=self._began,
            ended=ended,
            starts=journal.starts,
            steps=journal.steps,
            snapshots=journal.snapshots,
            samples=self._scene.samples,
            faults=self._done,
            groups=self._groups,
            restarts=last.restarts,
            asked=self._options.faults,
            further=self._wrong,
        )

    def _all(self) -> None:
        if not self._settle(_START_SECONDS):
            self._violated("start", f"the job does not train within {_START_SECONDS:.0f} s")
            return
        self._rampage(planned(self._options.seed, self._options.only))
        self._put_all_right()
        if not self._settle(_SETTLE_SECONDS):
            self._violated("settle", "the job does not train at its size after the last fault")
        self._finish()

    def _rampage(self, plans: Iterator[Planned]) -> None:
        latest = time.time() + 60 * self._options.minutes
        while len(self._done) < self._options.faults and time.time() < latest:
            plan = next(plans)
            if plan.settled:
                self._settle(_SETTLE_SECONDS)
            self._watch(time.time() + plan.pause)
            fault = self._faults.act(plan, len(self._done) + 1, len(self._groups) + 1)
            if fault is not None:
                self._done.append(fault)
                print(told_fault(fault, self._began), flush=True)

    def _put_all_right(self) -> None:
        while (due := self._faults.next_undo()) is not None:
            self._watch(due)

    def _finish(self) -> None:
        self._scene.finish()
        deadline = time.time() + _FINISH_SECONDS
        while self._look().state not in ("Complete", "Failed") and time.time() < deadline:
            time.sleep(_EVERY_SECONDS)
        state = self._scene.samples[-1].state
        if state != "Complete":
            self._violated("complete", f"the job is {state} {_FINISH_SECONDS:.0f} s after it was asked to finish")

    def _watch(self, until: float) -> None:
        """Take samples until then, and repair what is due."""
        while (now := time.time()) < until:
            time.sleep(min(until - now, _EVERY_SECONDS))
            if until - now > _EVERY_SECONDS:
                self._look()
            self._faults.put_right(time.time())

    def _settle(self, seconds: float) -> bool:
        """Wait until the job trains at its size and is settled. Then close the group of faults."""
        deadline = time.time() + seconds
        while True:
            sample = self._look()
            self._faults.put_right(time.time())
            quiet = max((max(fault.time, fault.until) for fault in self._done[-20:]), default=0.0)
            if has_settled(sample, self._scene.journal, min(quiet, time.time())):
                self._close_group(sample, settled=True)
                return True
            if time.time() > deadline:
                return False
            time.sleep(_EVERY_SECONDS)

    def _close_group(self, sample: Sample, *, settled: bool) -> None:
        before, self._settled = self._settled, sample
        grouped = sum(len(group.faults) for group in self._groups)
        faults = tuple(self._done[grouped:])
        if before is not None and faults:
            seen = {pod.uid for at in self._scene.samples if at.time >= before.time for pod in at.nodes}
            seen |= {uid for fault in faults for uid in fault.hits}
            ended = seen - {pod.uid for pod in sample.nodes}
            self._groups.append(Group(faults, before.restarts, sample.restarts, len(ended), settled))

    def _look(self) -> Sample:
        sample = self._scene.look()
        if sample.time - self._said > _SAID_SECONDS:
            self._said = sample.time
            steps = self._scene.journal.steps
            step = f"step {steps[-1].done}, {sample.time - steps[-1].time:.1f} s ago" if steps else "no step"
            missing = sorted(sample.cut | sample.silent)
            away = f", away: {', '.join(missing)}" if missing else ""
            print(f"    {sample.state} {sample.members} of {sample.wanted}, {step}{away}", flush=True)
        return sample

    def _violated(self, rule: str, what: str) -> None:
        print(f"VIOLATION {rule}: {what}", flush=True)
        self._wrong.append(Violation(time.time(), rule, what))


def _run(options: argparse.Namespace) -> bool:
    """Do the run. Returns whether all rules hold."""
    print(f"seed {options.seed}", flush=True)
    with cluster_of(_MACHINES) as cluster:
        scene = Scene(cluster, node_name(_MACHINES), max(MIN, _REPLICAS))
        faults = Faults(scene, [node_name(number) for number in range(1, _MACHINES)])
        try:
            scene.create()
            scene.keep_logs(options.logs)
            report = judged(Run(scene, faults, options).evidence())
            if options.json is not None:
                options.json.parent.mkdir(parents=True, exist_ok=True)
                options.json.write_text(json.dumps(report, indent=1) + "\n")
            print(told(report), flush=True)  # before the cluster is put right, which may fail
        finally:
            faults.put_right(float("inf"))
            scene.close()
    return not report["violations"]


def main() -> int:
    """Return 1 if a rule is violated, 2 if the cluster is unusable, 130 after an interruption."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return 0 if _run(arguments()) else 1
    except UnusableError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
