"""Stops a cluster in any state, and removes everything that belongs to it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from localcluster import cgroups, netns, processes
from localcluster.files import read_json
from localcluster.paths import Layout
from localcluster.processes import Identity
from localcluster.shell import ClusterError, run, say


def recorded(state: Path) -> list[Identity]:
    """Processes that were recorded at their start."""
    services = [*state.glob("machines/*/services/*.json"), state / "entrance.json"]
    records = [processes.load(path) for path in services]
    machines = [read_json(path) for path in state.glob("machines/*/machine.json")]
    return [record.identity for record in records if record] + [Identity(**value) for value in machines if value]


def mounts_below(directory: Path, mountinfo: str) -> list[str]:
    """Mount points at or below a directory, the deepest first, out of /proc/PID/mountinfo."""
    points = [line.split()[4].encode().decode("unicode_escape") for line in mountinfo.splitlines()]
    return sorted((point for point in points if Path(point).is_relative_to(directory)), key=len, reverse=True)


def end_processes(layout: Layout) -> None:
    """End all processes of the cluster."""
    # Twice: during the first round, a process may start another.
    for _ in range(2):
        inodes = [netns.inode(name) for name in netns.names(layout.netns_prefix)]
        found = processes.belonging(
            processes.everyone(),
            mark=layout.id,
            netns={inode for inode in inodes if inode},
            recorded=set(recorded(layout.state)),
        )
        processes.end(process.identity for process in found)


def down(layout: Layout) -> None:
    """Stop the cluster and remove all its data outside the cache. The caller holds its lock."""
    end_processes(layout)
    for name in netns.names(layout.netns_prefix):
        netns.delete(name)
    left = cgroups.remove(layout.cgroup)
    if left:
        say(f"control groups that could not be removed: {' '.join(map(str, left))}")
    for point in mounts_below(layout.state, Path("/proc/self/mountinfo").read_text()):
        run(["umount", "--lazy", point])
    if layout.state.exists():
        run(["rm", "-rf", "--one-file-system", layout.state])
    with contextlib.suppress(OSError):
        layout.state.parent.rmdir()
    if layout.state.exists():
        raise ClusterError(f"{layout.state} could not be removed")
