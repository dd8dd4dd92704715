"""Machines: the control plane and the nodes. Each is a set of namespaces that lives as long as its first process."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from localcluster import cgroups, machineinit, netns, processes
from localcluster.builds import Programs
from localcluster.files import read_json, remove, write_json
from localcluster.paths import PACKAGE, Layout
from localcluster.processes import Identity
from localcluster.shell import ClusterError, tail, wait_until


class Machine:
    """One machine of a cluster, on or off."""

    def __init__(self, layout: Layout, name: str) -> None:
        self.layout = layout
        self.name = name
        self.directory = layout.machine(name)
        self.netns = layout.netns_prefix + name
        self.cgroup = f"{layout.cgroup}/{name}"

    @property
    def var(self) -> Path:
        """Its /var on the host, which survives a power cut."""
        return self.directory / "var"

    @property
    def etc(self) -> Path:
        """Its configuration files, with the same path inside and outside."""
        return self.directory / "etc"

    def first_process(self) -> Identity | None:
        """First process; None if the machine is off."""
        value = read_json(self.directory / "machine.json")
        if not value:
            return None
        identity = Identity(**value)
        return identity if processes.alive(identity) and netns.inode(self.netns) else None

    def inside(self, path: str) -> Path:
        """Path on the host of an absolute path of the running machine."""
        first = self.first_process()
        if first is None:
            raise ClusterError(f"{self.name} is off; `up` or `node start {self.name}` starts it")
        return Path(f"/proc/{first.pid}/root{path}")

    def power_on(self, programs: Programs) -> None:
        """Start its first process. Its network must exist, and nothing of an earlier start."""
        for directory in (self.var / "lib", self.var / "log", self.directory / "root", self.layout.volumes):
            directory.mkdir(parents=True, exist_ok=True)
        for name, target in {"run": "/run", "lock": "/run/lock"}.items():
            if not (self.var / name).is_symlink():
                (self.var / name).symlink_to(target)
        remove(self.directory / "services")
        described = machineinit.Machine(
            name=self.name,
            root=str(self.directory / "root"),
            var=str(self.var),
            volumes=str(self.layout.volumes),
            visible=[str(self.layout.state), str(self.layout.cache), str(PACKAGE)],
            pause=str(Path(programs["pause"]).resolve()),
        )
        namespaces = ["--mount", "--propagation", "slave", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]
        init = [sys.executable, "-m", machineinit.__name__, described.to_json()]
        argv = ["nsenter", f"--net={netns.path(self.netns)}", "unshare", *namespaces, *init]
        log = self.layout.logs / f"{self.name}.log"
        outer = processes.start(argv, log, self.layout.id, {"PYTHONPATH": str(PACKAGE.parent)})
        wait_until(f"first process of {self.name}", 20, lambda: self._record_first(outer, log))

    def _record_first(self, outer: Identity, log: Path) -> bool:
        if not processes.alive(outer):
            raise ClusterError(f"{self.name} did not start; {log}:\n{tail(log)}")
        inner = [process.identity for process in processes.everyone() if process.parent == outer.pid]
        if not inner or not Path(f"/proc/{inner[0].pid}/root/{machineinit.READY}").exists():
            return False
        write_json(self.directory / "machine.json", asdict(inner[0]))
        return True

    def power_off(self) -> None:
        """Kill everything in the machine and drop its network, as a power cut does. Its /var stays."""
        first = self.first_process()
        if first:
            for service in (self.directory / "services").glob("*.json"):
                self.signal(service.stem, signal.SIGCONT)  # a stopped nsenter would keep the end of its program
            # All other processes of the machine, including those of pods, end with the first.
            processes.end([first])
        inode = netns.inode(self.netns)
        if inode:
            inside = processes.belonging(processes.everyone(), mark="", netns=[inode], recorded=[])
            processes.end(process.identity for process in inside)
        netns.delete(self.netns)
        cgroups.remove(self.cgroup)
        remove(self.directory / "machine.json")
        remove(self.directory / "services")

    def command(self, argv: list[str]) -> list[str]:
        """Command on the host that runs `argv` inside the machine."""
        first = self.first_process()
        if first is None:
            raise ClusterError(f"{self.name} is off; `up` or `node start {self.name}` starts it")
        return ["nsenter", "--target", str(first.pid), "--mount", "--uts", "--ipc", "--pid", "--net", "--", *argv]

    def service(self, name: str, argv: list[str], files: Sequence[Path] = ()) -> bool:
        """Run a service inside the machine with these configuration files. Returns whether it had to start."""
        log = self.layout.logs / f"{self.name}.{name}.log"
        record = self.directory / "services" / f"{name}.json"
        return processes.ensure(record, self.command(argv), log, self.layout.id, files)

    def services(self) -> dict[str, bool]:
        """Started services, and whether each still runs."""
        records = {path.stem: processes.load(path) for path in sorted((self.directory / "services").glob("*.json"))}
        return {name: processes.alive(record.identity) for name, record in records.items() if record}

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a service: to the recorded process, which entered the machine, and to its child."""
        record = processes.load(self.directory / "services" / f"{name}.json")
        if record is None:
            raise ClusterError(f"{self.name} has no service {name}")
        first = record.identity
        family = [p.identity for p in processes.everyone() if p.identity == first or p.parent == first.pid]
        # nsenter, which stays outside, stops whenever its program is stopped: the program must continue first.
        for process in sorted(family, key=lambda process: process == first):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
