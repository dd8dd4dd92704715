"""The control plane: etcd, API server, controllers, scheduler, DNS, and access from the host."""

from __future__ import annotations

import socket
from pathlib import Path

from localcluster import addons, netns, pki, processes
from localcluster.api import Api
from localcluster.builds import Programs
from localcluster.files import read_json, write, write_json
from localcluster.machine import Machine
from localcluster.netns import CONTROL_PLANE_ADDRESS
from localcluster.paths import CONTROL_PLANE, Layout
from localcluster.shell import ClusterError, step, tail, wait_until

API_SERVER = f"https://{CONTROL_PLANE_ADDRESS}:6443"
_ETCD = "http://127.0.0.1:2379"
_SOCKET = "/run/api.sock"
_FIRST_PORT, _PORTS = 20000, 10000  # Below the ports that the kernel assigns to clients.
_TRIES = 20


def etcd(kube: str) -> list[str]:
    """Command of etcd."""
    peers = "http://127.0.0.1:2380"
    return [
        *[kube, "etcd", "--data-dir=/var/lib/etcd", "--unsafe-no-fsync", "--log-level=warn"],
        *[f"--listen-client-urls={_ETCD}", f"--advertise-client-urls={_ETCD}", f"--listen-peer-urls={peers}"],
        *[f"--initial-advertise-peer-urls={peers}", f"--initial-cluster=default={peers}"],
    ]


def api_server(kube: str, pki_directory: Path) -> list[str]:
    """Command of kube-apiserver."""
    return [
        *[kube, "kube-apiserver", f"--etcd-servers={_ETCD}", "--secure-port=6443"],
        *["--bind-address=0.0.0.0", f"--advertise-address={CONTROL_PLANE_ADDRESS}"],
        *[f"--tls-cert-file={pki_directory}/apiserver.crt", f"--tls-private-key-file={pki_directory}/apiserver.key"],
        f"--client-ca-file={pki_directory}/ca.crt",
        f"--kubelet-certificate-authority={pki_directory}/ca.crt",
        f"--kubelet-client-certificate={pki_directory}/apiserver-kubelet-client.crt",
        f"--kubelet-client-key={pki_directory}/apiserver-kubelet-client.key",
        # The control plane cannot look up names of nodes.
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki_directory}/service-accounts.pub",
        f"--service-account-signing-key-file={pki_directory}/service-accounts.key",
        f"--service-cluster-ip-range={netns.SERVICE_RANGE}",
        *["--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged"],
    ]


def controller_manager(kube: str, pki_directory: Path, kubeconfig: Path) -> list[str]:
    """Command of kube-controller-manager."""
    return [
        *[kube, "kube-controller-manager", f"--kubeconfig={kubeconfig}", "--use-service-account-credentials"],
        f"--service-account-private-key-file={pki_directory}/service-accounts.key",
        f"--root-ca-file={pki_directory}/ca.crt",
        f"--cluster-signing-cert-file={pki_directory}/ca.crt",
        f"--cluster-signing-key-file={pki_directory}/ca.key",
        *["--leader-elect=false", "--bind-address=127.0.0.1", "--kube-api-qps=300", "--kube-api-burst=600"],
        *["--node-monitor-period=2s", "--node-monitor-grace-period=20s"],
        *["--enable-hostpath-provisioner", "--pvclaimbinder-sync-period=2s"],
        "--flex-volume-plugin-dir=/var/lib/kubelet/volume-plugins",
    ]


def scheduler(kube: str, kubeconfig: Path) -> list[str]:
    """Command of kube-scheduler."""
    return [
        *[kube, "kube-scheduler", f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--bind-address=127.0.0.1"],
        *["--kube-api-qps=500", "--kube-api-burst=1000"],
    ]


class ControlPlane:
    """The control plane of the cluster."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.machine = Machine(layout, CONTROL_PLANE)

    def api(self) -> Api | None:
        """Client of the API server from the host; None if there is none yet."""
        port = self.port()
        return Api(self.layout.pki, port) if port and self.layout.pki.exists() else None

    def port(self) -> int | None:
        """Port of 127.0.0.1 at which the host reaches the API server."""
        value = read_json(self.layout.state / "port.json")
        return int(value) if value else None

    def ensure(self, programs: Programs) -> Api:
        """Start the missing parts of the control plane, and wait until it answers."""
        machine = self.machine
        pki.ensure(self.layout.pki)
        for user in ("controller-manager", "scheduler", "coredns", "policies", "proxy"):
            write_json(self.kubeconfig_of(user), pki.kubeconfig(self.layout.pki, user, API_SERVER), mode=0o600)
        if machine.first_process() is None:
            machine.power_off()
            netns.create_control_plane(machine.netns)
            machine.power_on(programs)
        kube = str(Path(programs["kube"]).resolve())
        machine.service("etcd", etcd(kube))
        machine.service("apiserver", api_server(kube, self.layout.pki))
        inward = f"UNIX-LISTEN:{_SOCKET},fork,unlink-early,backlog=512"
        machine.service("entry", ["socat", inward, f"TCP:{CONTROL_PLANE_ADDRESS}:6443,nodelay"])
        wait_until("the control plane's socket", 10, machine.inside(_SOCKET).exists)
        api = self._ensure_entrance()
        log = self.layout.logs / f"{machine.name}.apiserver.log"
        with step("API server"):
            wait_until("the API server", 120, lambda: api.answers("/readyz"), hint=f"its log: {log}")
        machine.service(
            "controller-manager", controller_manager(kube, self.layout.pki, self.kubeconfig_of("controller-manager"))
        )
        machine.service("scheduler", scheduler(kube, self.kubeconfig_of("scheduler")))
        machine.service("open-volumes", [kube, "open-volumes", "/tmp/hostpath_pv"])
        addons.install(api)
        self._ensure_names(programs)
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        wait_until("the default service account", 60, lambda: api.answers(account))
        return api

    def kubeconfig_of(self, user: str) -> Path:
        """Credentials of a component of the cluster."""
        return self.machine.etc / f"{user}.kubeconfig"

    def _ensure_names(self, programs: Programs) -> None:
        configuration = self.machine.etc / "Corefile"
        write(configuration, addons.corefile(self.kubeconfig_of("coredns")))
        self.machine.service(
            "coredns", [str(Path(programs["coredns"]).resolve()), "-conf", str(configuration)], [configuration]
        )
        first = self.machine.first_process()
        assert first is not None
        # CoreDNS listens only once it has read all objects of the API server.
        table = Path(f"/proc/{first.pid}/net/udp")
        log = self.layout.logs / f"{self.machine.name}.coredns.log"
        wait_until("CoreDNS", 60, lambda: addons.listens_to_dns(table.read_text()), hint=f"its log: {log}")

    def _ensure_entrance(self) -> Api:
        """Listen on a free port of 127.0.0.1 for the API server; on the last one if that is free."""
        target = self.machine.inside(_SOCKET)
        preferred = self.port() or _FIRST_PORT + int(self.layout.id, 16) % _PORTS
        for attempt in range(_TRIES):
            port = _FIRST_PORT + (preferred - _FIRST_PORT + attempt) % _PORTS
            if self._listen(port, target):
                write_json(self.layout.state / "port.json", port)
                server = f"https://127.0.0.1:{port}"
                context = f"torchrun-{self.layout.id}"
                write_json(
                    self.layout.kubeconfig, pki.kubeconfig(self.layout.pki, "admin", server, context), mode=0o600
                )
                return Api(self.layout.pki, port)
        log = self.layout.logs / "entrance.log"
        raise ClusterError(f"no free port among {_TRIES} from {preferred} on; {log}:\n{tail(log)}")

    def _listen(self, port: int, target: Path) -> bool:
        record_path = self.layout.state / "entrance.json"
        listener = f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,nodelay,backlog=512"
        argv = ["socat", listener, f"UNIX-CONNECT:{target}"]
        record = processes.load(record_path)
        ours = record is not None and record.argv == argv and processes.alive(record.identity)
        if not ours and _accepts(port):
            return False
        processes.ensure(record_path, argv, self.layout.logs / "entrance.log", self.layout.id)
        started = processes.load(record_path)
        assert started is not None
        # Another process may have taken the port: then this socat ends at once.
        wait_until(f"port {port}", 10, lambda: _accepts(port) or not processes.alive(started.identity), every=0.02)
        return processes.alive(started.identity)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
