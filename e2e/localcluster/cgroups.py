"""Control groups of the pods of the cluster, removed once their processes are gone."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def hierarchies(root: Path = _ROOT) -> list[Path]:
    """Roots of all hierarchies: several with version 1, one with version 2."""
    if (root / "cgroup.controllers").exists():
        return [root]
    return [path for path in root.iterdir() if path.is_dir() and not path.is_symlink()]


def create(name: str) -> None:
    """Create the group `name` in every hierarchy, with all controllers that are available there."""
    for hierarchy in hierarchies():
        group = hierarchy
        for part in Path(name.lstrip("/")).parts:
            _delegate(group)
            group /= part
            group.mkdir(exist_ok=True)
        _delegate(group)


def _delegate(group: Path) -> None:
    """Enable controllers for the groups below this one (version 2), or copy cpusets (version 1)."""
    if (group / "cgroup.subtree_control").exists():
        available = (group / "cgroup.controllers").read_text().split()
        for controller in available:
            with contextlib.suppress(OSError):  # Some need a capability or do not work in groups. They are not used.
                (group / "cgroup.subtree_control").write_text(f"+{controller}")
    for name in ("cpuset.cpus", "cpuset.mems"):
        own, above = group / name, group.parent / name
        if above.exists() and own.exists() and not own.read_text().strip():
            with contextlib.suppress(OSError):
                own.write_text(above.read_text())


def remove(name: str, patience: float = 5.0) -> list[Path]:
    """Remove the group `name` and all groups below it in every hierarchy. Returns what remains after some seconds."""
    tops = [hierarchy / name.lstrip("/") for hierarchy in hierarchies()]
    deadline = time.monotonic() + patience
    while True:
        tops = [top for top in tops if top.exists()]
        for top in tops:
            _remove_tree(top)
        tops = [top for top in tops if top.exists()]
        if not tops or time.monotonic() > deadline:
            return tops
        time.sleep(0.05)  # A killed process leaves its group a little later.


def _remove_tree(top: Path) -> None:
    for directory, _, _ in os.walk(top, topdown=False):
        with contextlib.suppress(OSError):
            Path(directory).rmdir()
