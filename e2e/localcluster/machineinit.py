"""First process of a machine: builds its file system from that of the host, then becomes `pause`.

A machine shares the host's programs and files, but /proc, /run, /tmp and /var are its own: whatever Kubernetes,
containerd and CNI keep there vanishes with the machine or lies in the cluster's state directory.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

OWN = ("proc", "run", "tmp", "var")
READY = "run/machine-ready"
VOLUMES = "tmp/hostpath_pv"  # where kube-controller-manager's host-path provisioner puts volumes
SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    # All traffic between nodes passes the control plane's address: it must not tell them of a shorter way.
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
}


@dataclass(frozen=True)
class Machine:
    """The inputs of a machine."""

    name: str
    root: str  # empty directory to build the file system at
    var: str  # its /var, kept while it is off
    volumes: str  # directory of the cluster's volumes
    visible: list[str]  # host directories to keep in sight wherever they are
    pause: str

    def to_json(self) -> str:
        """As an argument of this module."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Entry:
    """One entry of the root directory of the host."""

    name: str
    kind: str  # directory, link or other
    target: str = ""


def mounts(machine: Machine, entries: Iterable[Entry]) -> list[list[str]]:
    """Commands that build the file system of the machine at its root directory."""
    root = machine.root
    commands = [["mount", "-t", "tmpfs", "-o", "mode=755", "machine", root]]
    for entry in entries:
        if entry.name in OWN:
            continue
        if entry.kind == "link":
            commands.append(["ln", "-s", entry.target, f"{root}/{entry.name}"])
        elif entry.kind == "directory":
            commands += [
                ["mkdir", f"{root}/{entry.name}"],
                ["mount", "--rbind", f"/{entry.name}", f"{root}/{entry.name}"],
            ]
    commands += [
        ["mkdir", *(f"{root}/{name}" for name in OWN)],
        ["mount", "--bind", machine.var, f"{root}/var"],
        ["mount", "-t", "tmpfs", "-o", "mode=755", "run", f"{root}/run"],
        ["mount", "-t", "tmpfs", "-o", "mode=1777", "tmp", f"{root}/tmp"],
        ["mount", "-t", "proc", "proc", f"{root}/proc"],
        ["mkdir", "-p", f"{root}/run/lock", f"{root}/run/netns"],
    ]
    for path in [machine.volumes, *machine.visible]:
        if Path(path).parts[1] in OWN:
            commands += [["mkdir", "-p", f"{root}{path}"], ["mount", "--bind", path, f"{root}{path}"]]
    commands += [["mkdir", f"{root}/{VOLUMES}"], ["mount", "--bind", machine.volumes, f"{root}/{VOLUMES}"]]
    return commands


def host_root() -> list[Entry]:
    """Entries of the root directory of the host."""
    found = []
    for path in sorted(Path("/").iterdir()):
        if path.is_symlink():
            found.append(Entry(path.name, "link", str(path.readlink())))
        else:
            found.append(Entry(path.name, "directory" if path.is_dir() else "other"))
    return found


def main(arguments: Sequence[str]) -> None:
    """Build the machine that the only argument describes. Never returns."""
    machine = Machine(**json.loads(arguments[0]))
    socket.sethostname(machine.name)
    for command in mounts(machine, host_root()):
        subprocess.run(command, check=True)
    os.chdir(machine.root)
    Path("run/host").mkdir()
    subprocess.run(["pivot_root", ".", "run/host"], check=True)
    os.chroot(".")
    os.chdir("/")
    subprocess.run(["umount", "--lazy", "/run/host"], check=True)
    Path("/run/host").rmdir()
    for name, value in SYSCTLS.items():
        Path("/proc/sys", name).write_text(value)
    Path("/", READY).touch()
    os.execv(machine.pause, ["pause"])


if __name__ == "__main__":
    main(sys.argv[1:])
