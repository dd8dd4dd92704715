"""Faults for benchmarks and chaos: signals to processes of pods from outside, and evictions."""

import json
import os
import signal
from collections.abc import Iterable
from pathlib import Path

from support.kubectl import Kubectl, Object


def container_processes(pod: Object, container: str) -> list[int]:
    """Return the process IDs of a container of a pod on this computer; empty if it does not run."""
    told = pod["status"]
    statuses: list[Object] = [*(told.get("containerStatuses") or []), *(told.get("initContainerStatuses") or [])]
    full_name = next((status.get("containerID") or "" for status in statuses if status["name"] == container), "")
    identifier = full_name.partition("://")[2]
    found = []
    for entry in Path("/proc").iterdir() if identifier else ():
        if entry.name.isdecimal():
            try:
                if identifier in (entry / "cgroup").read_text():
                    found.append(int(entry.name))
            except OSError:
                continue  # It has ended.
    return found


def number_inside(process: int) -> int | None:
    """Return the process ID inside the container; None if the process has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[-1]) for line in lines if line.startswith("NSpid:")), None)


def resident_mib(processes: Iterable[int]) -> int:
    """Return the resident memory of processes, in MiB."""
    kilobytes = 0
    for process in processes:
        try:
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
        except OSError:
            continue  # It has ended.
        kilobytes += next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)
    return kilobytes // 1024


def proportional_mib(processes: Iterable[int]) -> float:
    """Return the proportional set size of processes, in MiB: memory that processes share counts once among them."""
    kilobytes = 0
    for process in processes:
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue  # It has ended.
        kilobytes += next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    return kilobytes / 1024


def send(processes: Iterable[int], number: int = signal.SIGKILL) -> None:
    """Send a signal to processes at once, without grace and without the API server."""
    for process in processes:
        try:
            os.kill(process, number)
        except ProcessLookupError:
            continue  # It ended together with another one.


def evict(kubectl: Kubectl, pod: str) -> None:
    """Evict a pod as `kubectl drain` does. Raises KubectlError."""
    metadata = {"name": pod, "namespace": kubectl.namespace}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    path = f"/api/v1/namespaces/{kubectl.namespace}/pods/{pod}/eviction"
    kubectl.run("create", f"--raw={path}", "--filename=-", stdin=json.dumps(eviction))
