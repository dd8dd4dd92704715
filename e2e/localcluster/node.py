"""Nodes: a machine with containerd, kubelet, kube-proxy and an agent that enforces network policies."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from localcluster import cgroups, netns, pki
from localcluster.api import Api
from localcluster.builds import Programs
from localcluster.controlplane import API_SERVER, ControlPlane
from localcluster.files import read_json, remove, write, write_json
from localcluster.machine import Machine
from localcluster.netns import CONTROL_PLANE_ADDRESS
from localcluster.paths import CONTROL_PLANE, Layout, node_name
from localcluster.shell import ClusterError, wait_until

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
PAUSE_IMAGE = "docker.io/library/pause:1"
_UNUSED_PLUGINS = (
    "io.containerd.internal.v1.tracing",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.tracing.processor.v1.otlp",
)


def containerd_configuration(cni: Path) -> str:
    """containerd's configuration (TOML)."""
    unused = ", ".join(f'"{name}"' for name in _UNUSED_PLUGINS)
    return f"""version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [{unused}]
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Without CAP_SYS_RESOURCE, as in many virtual machines and containers, lowering a process's score is refused.
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
"""


def cni_configuration(pods: str) -> dict[str, Any]:
    """Configuration of CNI: a routed link per pod.

    A bridge would deliver the answers of the pod of a service directly to another pod of the node, without the reverse
    address translation.
    """
    ipam = {
        "type": "host-local",
        "dataDir": "/run/cni",  # Useless after a power cut.
        "ranges": [[{"subnet": pods}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "ptp", "ipMasq": False, "ipam": ipam}]}


def kubelet_configuration(pki_directory: Path, name: str, cgroup: str) -> dict[str, Any]:
    """Kubelet's configuration."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{pki_directory}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{pki_directory}/{name}.crt",
        "tlsPrivateKeyFile": f"{pki_directory}/{name}.key",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "clusterDNS": [CONTROL_PLANE_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        # Both versions of control groups work. Pods go below the group of the cluster.
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "localStorageCapacityIsolation": False,
        # The disk belongs to the host: its free space says nothing about this node, and images cannot be pulled again.
        "evictionHard": {"nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "maxPods": 200,
        "serializeImagePulls": False,
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        "eventRecordQPS": 0,
        "syncFrequency": "10s",
        "volumeStatsAggPeriod": "-1s",
        "nodeStatusUpdateFrequency": "2s",
        "nodeLeaseDurationSeconds": 10,
    }


class Node:
    """One node of a cluster."""

    def __init__(self, layout: Layout, index: int) -> None:
        self.layout = layout
        self.index = index
        self.name = node_name(index)
        self.machine = Machine(layout, self.name)
        self._control_plane = layout.netns_prefix + CONTROL_PLANE

    @property
    def containerd_root(self) -> Path:
        """Directory of its images on the host."""
        return self.machine.var / "lib/containerd"

    def images(self) -> dict[str, str]:
        """Images on the node, with the key of each version."""
        return read_json(self.machine.directory / "images.json") or {}

    def set_images(self, images: dict[str, str]) -> None:
        """Record the images on the node."""
        write_json(self.machine.directory / "images.json", images)

    def is_on(self) -> bool:
        """Whether its machine runs."""
        return self.machine.first_process() is not None

    def ensure(self, programs: Programs) -> None:
        """Start the missing parts of the node, and connect it."""
        machine = self.machine
        self._write_configuration()
        if machine.first_process() is None:
            machine.power_off()
            netns.create_node(self._control_plane, machine.netns, self.index)
            cgroups.create(machine.cgroup)
            machine.power_on(programs)
        netns.set_link(self._control_plane, self.index, up=True)
        kube = str(Path(programs["kube"]).resolve())
        etc = machine.etc
        configuration = etc / "containerd.toml"
        if machine.service("containerd", ["containerd", "--config", str(configuration)], [configuration]):
            socket = machine.inside(CONTAINERD_SOCKET)
            log = self.layout.logs / f"{self.name}.containerd.log"
            wait_until(f"containerd of {self.name}", 30, socket.exists, every=0.05, hint=f"its log: {log}")
        kubelet = [f"--config={etc / 'kubelet.json'}", f"--kubeconfig={etc / 'kubelet.kubeconfig'}"]
        address = [f"--hostname-override={self.name}", f"--node-ip={netns.node_address(self.index)}"]
        machine.service("kubelet", [kube, "kubelet", *kubelet, *address], [etc / "kubelet.json"])
        machine.service("proxy", [kube, "kube-proxy", f"--config={etc / 'proxy.json'}"], [etc / "proxy.json"])
        policies = str(ControlPlane(self.layout).kubeconfig_of("policies"))
        machine.service("policies", [kube, "enforce-policies", policies, self.name])

    def _write_configuration(self) -> None:
        pki.ensure_node(self.layout.pki, self.index)
        etc = self.machine.etc
        write(etc / "containerd.toml", containerd_configuration(etc / "cni"))
        write_json(etc / "cni/10-pods.conflist", cni_configuration(netns.pod_range(self.index)))
        write_json(etc / "kubelet.json", kubelet_configuration(self.layout.pki, self.name, self.machine.cgroup))
        write_json(etc / "kubelet.kubeconfig", pki.kubeconfig(self.layout.pki, self.name, API_SERVER), mode=0o600)
        write_json(etc / "proxy.json", self._proxy_configuration())

    def _proxy_configuration(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(ControlPlane(self.layout).kubeconfig_of("proxy"))},
            "clusterCIDR": netns.POD_RANGE,
            "hostnameOverride": self.name,
            "mode": "iptables",
            "iptables": {"minSyncPeriod": "100ms"},
            # These limits apply to the whole computer; a namespace cannot set them.
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
        }

    def stop(self) -> None:
        """Cut the power of the node, after its network, so that no peer sees its connections close."""
        netns.set_link(self._control_plane, self.index, up=False)
        self.machine.power_off()

    def partition(self) -> None:
        """Cut the network of the node. Its processes continue."""
        if not self.is_on():
            raise ClusterError(f"{self.name} is off")
        netns.set_link(self._control_plane, self.index, up=False)

    def heal(self) -> None:
        """Restore the network of the node."""
        if not self.is_on():
            raise ClusterError(f"{self.name} is off")
        netns.set_link(self._control_plane, self.index, up=True)

    def silence(self) -> None:
        """Stop the kubelet. The pods continue, and the API server soon reports the node as NotReady."""
        self.machine.signal("kubelet", signal.SIGSTOP)

    def unsilence(self) -> None:
        """Let the kubelet continue."""
        self.machine.signal("kubelet", signal.SIGCONT)

    def is_reachable(self) -> bool:
        """Whether its network is connected."""
        return self.is_on() and netns.link_is_up(self._control_plane, self.index)

    def remove(self, api: Api) -> None:
        """Remove the node from the cluster, with all its data."""
        self.stop()
        api.delete(f"/api/v1/nodes/{self.name}")
        remove(self.machine.directory)
