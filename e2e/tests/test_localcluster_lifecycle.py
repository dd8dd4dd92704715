"""A local cluster of one node is started, killed, restarted and stopped. Nothing may stay behind.

It has its own state directory, so the cluster of the checkout is not affected. Takes about a minute.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcluster import builds, cgroups, netns, preflight, processes
from localcluster.api import Api
from localcluster.controlplane import ControlPlane
from localcluster.images import Builder
from localcluster.machine import Machine
from localcluster.paths import CONTROL_PLANE, Layout
from localcluster.shell import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

_POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "idle"},
    "spec": {
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "idle", "image": "docker.io/library/pause:1"}],
    },
}
_POD_PATH = "/api/v1/namespaces/default/pods/idle"


class Commands:
    """Runs the program of the local cluster as a user does, with its own state directory."""

    def __init__(self, state_home: Path) -> None:
        self.environment = {
            **os.environ,
            "XDG_STATE_HOME": str(state_home),
            "PYTHONPATH": str(Path(builds.__file__).parents[1]),
        }
        self.layout = Layout.of(self.environment)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "localcluster", *arguments]
        return subprocess.Popen(argv, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, *arguments: str) -> str:
        with self.start(*arguments) as process:
            output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        return output

    def kill_when(self, path: Path, *arguments: str) -> None:
        """Start a command, and kill it as soon as this file exists."""
        with self.start(*arguments) as process:
            deadline = time.monotonic() + 120
            while not path.exists():
                assert process.poll() is None, f"it ended before {path} existed"
                assert time.monotonic() < deadline
            process.send_signal(signal.SIGKILL)
            process.communicate()

    @property
    def api(self) -> Api:
        api = ControlPlane(self.layout).api()
        assert api is not None
        return api

    def left(self) -> dict[str, list[str]]:
        """Everything on this computer that belongs to this cluster."""
        layout = self.layout
        known = (str(layout.state), layout.id)
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        argvs = {process.identity.pid: _argv(process.identity.pid) for process in processes.everyone()}
        marked = [process.identity.pid for process in processes.everyone() if process.mark == layout.id]
        return {
            "network namespaces": netns.names(layout.netns_prefix),
            "mounts": [line for line in mounts if any(part in line for part in known)],
            "marked processes": [str(pid) for pid in marked],
            "processes": [argv for argv in argvs.values() if any(part in argv for part in known)],
            "control groups": [
                str(root / layout.cgroup.lstrip("/"))
                for root in cgroups.hierarchies()
                if (root / layout.cgroup.lstrip("/")).exists()
            ],
            "files": [str(path) for path in (layout.state.parent, layout.lock) if path.exists()],
        }


_NOTHING: dict[str, list[str]] = {
    "network namespaces": [],
    "mounts": [],
    "marked processes": [],
    "processes": [],
    "control groups": [],
    "files": [],
}


def _argv(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    if sys.platform != "linux" or os.geteuid() != 0 or preflight.missing_packages():
        pytest.skip("needs root and the local cluster's Debian packages")
    result = Commands(tmp_path / "state")
    if builds.find(result.layout) is None:
        pytest.skip("the local cluster's programs are not built: python3 -m localcluster build")
    yield result
    result.run("down")


def test_up_and_down_leave_nothing_behind(commands: Commands) -> None:
    layout = commands.layout
    machines = [Machine(layout, CONTROL_PLANE), Machine(layout, "node1")]

    commands.run("up", "--bare", "--nodes", "1")
    commands.api.apply(_POD_PATH, _POD)
    wait_until("a running pod", 60, lambda: commands.api.get(_POD_PATH)["status"].get("phase") == "Running")
    assert "Ready" in commands.run("status")

    before = [machine.first_process() for machine in machines]
    commands.run("up", "--bare")
    assert [machine.first_process() for machine in machines] == before

    # After a power cut, the same pod runs again.
    commands.run("node", "stop", "node1")
    assert not [group for group in cgroups.hierarchies() if (group / machines[1].cgroup.lstrip("/")).exists()]
    assert machines[1].first_process() is None
    wait_until("the node's loss to be noticed", 60, lambda: not commands.api.ready_nodes()["node1"])
    commands.run("node", "start", "node1")
    wait_until("the node's return", 60, lambda: commands.api.ready_nodes()["node1"])

    # A partition leaves everything running, and `up` ends it.
    commands.run("node", "partition", "node1")
    wait_until("the partition to be noticed", 60, lambda: not commands.api.ready_nodes()["node1"])
    assert machines[1].first_process() is not None
    commands.run("up", "--bare")
    assert commands.api.ready_nodes()["node1"]

    commands.run("down")
    assert commands.left() == _NOTHING
    assert "does not" not in commands.run("down")
    assert commands.left() == _NOTHING


@pytest.mark.parametrize(
    "moment",
    [
        "pki",
        "machines/control-plane/var/lock",
        "machines/control-plane/machine.json",
        "kubeconfig",
        "machines/node1/etc/proxy.json",
        "machines/node1/services/containerd.json",
    ],
)
def test_a_run_killed_half_way_is_taken_up_or_removed(commands: Commands, moment: str) -> None:
    commands.kill_when(commands.layout.state / moment, "up", "--bare", "--nodes", "1")
    if moment in {"machines/control-plane/var/lock", "machines/node1/etc/proxy.json"}:
        commands.run("up", "--bare", "--nodes", "1")
        assert commands.api.ready_nodes() == {"node1": True}
    commands.run("down")
    assert commands.left() == _NOTHING


def test_a_taken_port_is_passed_over(commands: Commands) -> None:
    commands.run("up", "--bare", "--nodes", "1")
    first = ControlPlane(commands.layout).port()
    assert first is not None
    commands.run("down")
    with socket.create_server(("127.0.0.1", first)):
        commands.run("up", "--bare", "--nodes", "1")
        assert ControlPlane(commands.layout).port() == first + 1
        assert commands.api.ready_nodes() == {"node1": True}


def test_pods_start_on_a_node_whose_images_were_loaded_while_it_ran(commands: Commands, tmp_path: Path) -> None:
    """Twice: the second import replaces what the first one has made, the image of every sandbox included."""
    layout = commands.layout
    commands.run("up", "--bare", "--nodes", "1")
    programs = builds.find(layout)
    assert programs is not None
    Builder(layout).export(Builder(layout).pause(Path(programs["pause"]).resolve()), [], tmp_path / "pause.tar")
    for name in ("first", "second"):
        commands.run("load", str(tmp_path / "pause.tar"))
        path = f"/api/v1/namespaces/default/pods/{name}"
        commands.api.apply(path, {**_POD, "metadata": {"name": name}})
        wait_until(
            f"pod {name}",
            60,
            lambda path=path: commands.api.get(path)["status"].get("phase") == "Running",  # type: ignore[misc]
        )
