"""Entry point of `python -m bench.recovery`, which `make bench-recovery` runs; it uses the local cluster."""

import argparse
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.recovery import bars, facts, results
from bench.recovery.faults import FAULTS, Fault
from bench.recovery.runner import Record, Runner
from bench.recovery.systems import Pods, System, all_systems, shared_objects
from localcluster.paths import node_name
from support.clusters import ROOT, Cluster, UnusableError
from support.kubectl import Kubectl
from support.machines import cluster_of

_NAMESPACE = "bench-recovery"
_MACHINES = 5
"""Three for the pods of a job, one for a spare or a replacement, and one for the operator, which has no faults.
"""
_SYSTEMS = ("torchrunjob", "torchrunjob-spare", "torchrunjob-cold", "pytorchjob", "pods")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    names = [fault.name for fault in FAULTS]
    parser = argparse.ArgumentParser(prog="bench.recovery", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--systems", nargs="+", choices=_SYSTEMS, default=list(_SYSTEMS), metavar="SYSTEM")
    parser.add_argument("--faults", nargs="+", choices=names, default=names, metavar="FAULT", help=", ".join(names))
    parser.add_argument("--limit", type=float, default=180.0, help="seconds after which a job counts as not recovered")
    parser.add_argument("--json", type=Path, default=ROOT / ".work" / "recovery.json", help="file for the figures")
    parser.add_argument("--resume", action="store_true", help="keep the repetitions in the file, do the missing ones")
    return parser.parse_args()


@contextmanager
def _namespace(cluster: Cluster) -> Iterator[Kubectl]:
    """Create a namespace with the shared objects of all jobs while the block runs."""
    cluster.kubectl.run("delete", "namespace", _NAMESPACE, "--ignore-not-found", "--timeout=120s")
    cluster.kubectl.run("create", "namespace", _NAMESPACE)
    try:
        kubectl = cluster.kubectl.within(_NAMESPACE)
        kubectl.apply(*shared_objects())
        yield kubectl
    finally:
        cluster.kubectl.run("delete", "namespace", _NAMESPACE, "--timeout=120s")


def _compare(
    system: System, kubectl: Kubectl, chosen: Sequence[Fault], options: argparse.Namespace, document: dict[str, Any]
) -> None:
    """Do the missing repetitions of one system. Each goes into the document and to the disk at once."""
    done = {(known["system"], known["fault"], known["repetition"]) for known in document["repetitions"]}

    def report(record: Record) -> None:
        document["repetitions"].append(record)
        results.write(options.json, document)
        print(results.told(record), flush=True)

    runner = Runner(kubectl, system, options.limit, report)
    try:
        with system.installed():
            try:
                for number in range(1, options.repetitions + 1):
                    for fault in chosen:
                        if fault.name not in system.cannot and (system.name, fault.name, number) not in done:
                            runner.repetition(fault, number)
            finally:
                runner.close()
    finally:
        document["ended"] = datetime.now(UTC).isoformat(timespec="seconds")
        results.write(options.json, document)


def _run(options: argparse.Namespace) -> bool:
    """Do all requested repetitions. Returns whether every bar was met."""
    chosen = [fault for fault in FAULTS if fault.name in options.faults]
    with cluster_of(_MACHINES) as cluster, _namespace(cluster) as kubectl:
        systems = all_systems(kubectl, Pods(cluster.trainer_image, spared=node_name(_MACHINES)))
        document = results.document(FAULTS, systems, facts.machine(), facts.versions(kubectl), options.limit)
        document["started"] = datetime.now(UTC).isoformat(timespec="seconds")
        if options.resume and options.json.exists():
            document["repetitions"] = json.loads(options.json.read_text())["repetitions"]
        for system in systems:
            if system.name in options.systems:
                _compare(system, kubectl, chosen, options, document)
        print(f"{results.table(document)}\n\n{bars.told(document)}")
    return all(met for _, _, met in bars.judged(document))


def main() -> int:
    """Measure. Returns 1 if a bar is missed, 2 if the cluster is unusable, 130 after an interruption."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # Shells ignore SIGINT in background jobs.
    options = arguments()
    try:
        met = _run(options)
    except UnusableError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted; {options.json} has the figures so far; --resume continues\n")
        return 130
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
