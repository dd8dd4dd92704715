"""The decisions of the local cluster: names, keys, plans and ownership."""

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from localcluster import (
    addons,
    cgroups,
    cli,
    controlplane,
    down,
    files,
    golang,
    machineinit,
    pki,
    preflight,
)
from localcluster import node as nodes
from localcluster.api import is_ready
from localcluster.locks import exclusive, workspace
from localcluster.paths import Layout, cluster_id, node_index
from localcluster.shell import ClusterError, stream, together, wait_until


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(checkout=tmp_path / "checkout", cache=tmp_path / "cache", state_home=tmp_path / "state")


@pytest.mark.parametrize(
    ("environment", "cache", "state_home"),
    [
        ({"HOME": "/home/a"}, "/home/a/.cache/torchrun-operator", "/home/a/.local/state"),
        ({"HOME": "/home/a", "XDG_CACHE_HOME": "/c", "XDG_STATE_HOME": "/s"}, "/c/torchrun-operator", "/s"),
        ({"XDG_CACHE_HOME": "", "XDG_STATE_HOME": ""}, "/root/.cache/torchrun-operator", "/root/.local/state"),
    ],
)
def test_layout_follows_xdg(environment: dict[str, str], cache: str, state_home: str) -> None:
    checkout = Path("/checkout")
    assert Layout.of(environment, checkout) == Layout(checkout, Path(cache), Path(state_home))


def test_no_two_clusters_share_a_name(layout: Layout) -> None:
    ids = {cluster_id(Path(checkout), Path(state)) for checkout in ("/a", "/a/b") for state in ("/s", "/t")}
    assert len(ids) == 4
    one = Layout(Path("/a"), layout.cache, Path("/s"))
    other = Layout(Path("/b"), layout.cache, Path("/s"))
    for attribute in ("id", "state", "lock", "cgroup", "netns_prefix", "kubeconfig", "volumes"):
        assert getattr(one, attribute) != getattr(other, attribute)


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("node1", 1),
        ("node12", 12),
        ("node0", None),
        ("node01", None),
        ("node", None),
        ("nodex", None),
        ("control-plane", None),
    ],
)
def test_node_index(name: str, index: int | None) -> None:
    assert node_index(name) == index


def test_mounts_below_a_directory() -> None:
    table = "\n".join(
        f"{number} 1 8:1 / {point} rw - ext4 /dev/a rw"
        for number, point in enumerate(["/", "/state", "/state/a\\040b/c", "/stately", "/state/a\\040b"])
    )
    assert down.mounts_below(Path("/state"), table) == ["/state/a b/c", "/state/a b", "/state"]


def test_machine_has_its_own_directories_and_the_hosts_others() -> None:
    machine = machineinit.Machine("node1", "/s/root", "/s/var", "/tmp/s/volumes", ["/tmp/s", "/home/c"], "/pause")
    entries = [
        machineinit.Entry("bin", "link", "usr/bin"),
        machineinit.Entry("tmp", "directory"),
        machineinit.Entry("swapfile", "other"),
        machineinit.Entry("usr", "directory"),
    ]
    assert [" ".join(command) for command in machineinit.mounts(machine, entries)] == [
        "mount -t tmpfs -o mode=755 machine /s/root",
        "ln -s usr/bin /s/root/bin",
        "mkdir /s/root/usr",
        "mount --rbind /usr /s/root/usr",
        "mkdir /s/root/proc /s/root/run /s/root/tmp /s/root/var",
        "mount --bind /s/var /s/root/var",
        "mount -t tmpfs -o mode=755 run /s/root/run",
        "mount -t tmpfs -o mode=1777 tmp /s/root/tmp",
        "mount -t proc proc /s/root/proc",
        "mkdir -p /s/root/run/lock /s/root/run/netns",
        "mkdir -p /s/root/tmp/s/volumes",
        "mount --bind /tmp/s/volumes /s/root/tmp/s/volumes",
        "mkdir -p /s/root/tmp/s",
        "mount --bind /tmp/s /s/root/tmp/s",
        "mkdir /s/root/tmp/hostpath_pv",
        "mount --bind /tmp/s/volumes /s/root/tmp/hostpath_pv",
    ]


@pytest.mark.parametrize(("text", "version"), [("go1.25\n", (1, 25)), ("go1.26.8", (1, 26)), ("devel", None)])
def test_go_version(text: str, version: tuple[int, int] | None) -> None:
    assert golang.parse_version(text) == version


def shell_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("on_path", "in_cache", "used"),
    [
        ("go1.25.0", None, "go1.25.0"),
        ("go1.26.8", "go1.26.6", "go1.26.8"),
        ("go1.19.8", "go1.26.6", "go1.26.6"),  # Debian 12
        (None, "go1.26.6", "go1.26.6"),
        (None, None, None),
        ("go1.19.8", None, None),
    ],
)
def test_go_is_that_on_path_or_that_in_the_cache(
    on_path: str | None, in_cache: str | None, used: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    cached = tmp_path / f"tools/go-{golang.pinned_version(golang.PINNED.read_text())}/go/bin/go"
    for program, version in (tmp_path / "bin/go", on_path), (cached, in_cache):
        if version is not None:
            shell_program(program, f"echo {version}")
    assert golang.version(tmp_path) == used


def test_tasks_run_together_and_the_first_error_ends_the_others(tmp_path: Path) -> None:
    """A build that failed does not wait for another one that takes minutes."""
    ends = threading.Event()

    def fails() -> None:
        wait_until("the other command", 20, (tmp_path / "runs").exists)
        raise ClusterError("no disk")

    def takes_long() -> None:
        try:
            stream("sleep", ["sh", "-c", f"touch {tmp_path}/runs; exec sleep 600"], tmp_path / "log")
        finally:
            ends.set()

    with pytest.raises(ClusterError, match="no disk"):
        together(takes_long, fails)
    assert ends.is_set()
    both = threading.Barrier(2)

    def waits_for_the_other() -> None:
        both.wait(20)

    together(waits_for_the_other, waits_for_the_other)


def test_missing_packages() -> None:
    assert preflight.missing_packages(lambda _: True) == []
    assert preflight.missing_packages(lambda need: need not in {"ctr", "/usr/lib/cni/ptp"}) == [
        "containerd",
        "containernetworking-plugins",
    ]


def test_too_little_disk_names_the_alternative(tmp_path: Path) -> None:
    preflight.require_disk(tmp_path / "not/there/yet", 1)
    with pytest.raises(ClusterError, match=r"GiB free; 1048576 GiB are needed[\s\S]*XDG_CACHE_HOME[\s\S]*KUBECONFIG"):
        preflight.require_disk(tmp_path / "not/there/yet", 1024**5)


def test_dns_is_seen_listening() -> None:
    table = "  sl  local_address rem_address\n  7: 01004D0A:0035 00000000:0000 07\n"
    assert addons.listens_to_dns(table)
    assert not addons.listens_to_dns(table.replace("01004D0A", "0100007F"))
    assert not addons.listens_to_dns("")


@pytest.mark.parametrize(
    ("conditions", "ready"),
    [
        ([], False),
        ([{"type": "Ready", "status": "Unknown"}], False),
        ([{"type": "MemoryPressure", "status": "True"}, {"type": "Ready", "status": "True"}], True),
    ],
)
def test_ready_nodes(conditions: list[dict[str, str]], ready: bool) -> None:
    assert is_ready({"status": {"conditions": conditions}}) == ready
    assert not is_ready({})


def test_kubeconfig_holds_all_it_needs(tmp_path: Path) -> None:
    for name in ("ca.crt", "admin.crt", "admin.key"):
        (tmp_path / name).write_text(name)
    assert pki.kubeconfig(tmp_path, "admin", "https://127.0.0.1:1", "c") == {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "c", "cluster": {"server": "https://127.0.0.1:1", "certificate-authority-data": "Y2EuY3J0"}}
        ],
        "users": [
            {"name": "admin", "user": {"client-certificate-data": "YWRtaW4uY3J0", "client-key-data": "YWRtaW4ua2V5"}}
        ],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "admin"}}],
        "current-context": "c",
    }


def test_nothing_listens_outside_its_namespace() -> None:
    commands = [
        controlplane.etcd("kube"),
        controlplane.controller_manager("kube", Path("/pki"), Path("/kubeconfig")),
        controlplane.scheduler("kube", Path("/kubeconfig")),
    ]
    for command in commands:
        listeners = [part for part in command if "listen" in part or "bind-address" in part]
        assert listeners
        assert all("127.0.0.1" in part for part in listeners)


def test_containerd_keeps_everything_on_the_machine() -> None:
    configuration = nodes.containerd_configuration(Path("/state/etc/cni"))
    assert 'root = "/var/lib/containerd"' in configuration
    assert 'conf_dir = "/state/etc/cni"' in configuration
    assert "/opt" not in configuration.replace("/var/lib/containerd/opt", "")


def test_control_groups_of_both_versions(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for path in (first / "cpu", first / "memory"):
        path.mkdir(parents=True)
    (first / "cpuacct").symlink_to("cpu")
    second.mkdir()
    (second / "cgroup.controllers").write_text("cpu memory\n")
    assert sorted(path.name for path in cgroups.hierarchies(first)) == ["cpu", "memory"]
    assert cgroups.hierarchies(second) == [second]


@pytest.mark.parametrize(
    "argv", [[], ["up", "--nodes", "0"], ["node", "explode", "node1"], ["image", "other"], ["load"], ["nothing"]]
)
def test_wrong_commands_are_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        cli.parser().parse_args(argv)
    assert refused.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_write_leaves_no_trace_but_the_file(tmp_path: Path) -> None:
    files.write_json(tmp_path / "deep/a.json", {"b": 1}, mode=0o600)
    assert files.read_json(tmp_path / "deep/a.json") == {"b": 1}
    assert (tmp_path / "deep/a.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.json"]
    assert files.read_json(tmp_path / "missing.json") is None


_HOLD = """
import sys
import threading
from pathlib import Path
from localcluster.locks import exclusive
with exclusive(Path(sys.argv[1]), "test"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_free_once_its_holder_is_killed(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    argv = [sys.executable, "-c", _HOLD, str(lock)]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with lock.open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.kill()
        with exclusive(lock, "test"):
            assert lock.exists()
    assert not lock.exists()


def test_a_workspace_removes_those_of_killed_runs_only(tmp_path: Path) -> None:
    (tmp_path / "abandoned").mkdir()
    with workspace(tmp_path) as one:
        with workspace(tmp_path) as two:
            assert sorted(tmp_path.iterdir()) == sorted([one, two])
        assert list(tmp_path.iterdir()) == [one]
    assert list(tmp_path.iterdir()) == []


def test_a_long_command_that_fails_says_where_its_output_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    stream("good", ["sh", "-c", "echo one; echo two >&2"], log)
    assert log.read_text() == "one\ntwo\n"
    with pytest.raises(ClusterError, match=rf"bad failed \(exit code 3\); all its output: {log}[\s\S]*reason"):
        stream("bad", ["sh", "-c", "echo reason; exit 3"], log)
    assert "good: 0." in capsys.readouterr().err


def test_waiting_ends(tmp_path: Path) -> None:
    answers = iter([False, True])
    wait_until("it", 5, lambda: next(answers), every=0.001)
    with pytest.raises(ClusterError, match="it: not within 0 s; look there"):
        wait_until("it", 0.01, lambda: False, every=0.001, hint="look there")
