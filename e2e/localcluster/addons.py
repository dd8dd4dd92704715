"""Add-ons of the cluster: names (CoreDNS) and storage."""

from __future__ import annotations

from pathlib import Path

from localcluster.api import Api
from localcluster.netns import CONTROL_PLANE_ADDRESS

_RBAC = "/apis/rbac.authorization.k8s.io/v1"
# Path of the collection -> objects.
MANIFESTS: dict[str, list[dict[str, object]]] = {
    f"{_RBAC}/clusterroles": [
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "system:coredns"},
            "rules": [
                {"apiGroups": [""], "resources": ["services", "namespaces"], "verbs": ["list", "watch"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            ],
        }
    ],
    f"{_RBAC}/clusterrolebindings": [
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "system:coredns"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:coredns"}],
        }
    ],
    "/apis/storage.k8s.io/v1/storageclasses": [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": "standard",
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": "kubernetes.io/host-path",
            "reclaimPolicy": "Delete",
            "volumeBindingMode": "Immediate",
        }
    ],
}


def corefile(kubeconfig: Path) -> str:
    """Configuration of CoreDNS: the names of the cluster from its watch. Other names fail at once."""
    return f"""cluster.local in-addr.arpa {{
  bind {CONTROL_PLANE_ADDRESS}
  errors
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {kubeconfig} local
    ttl 1
  }}
}}
. {{
  bind {CONTROL_PLANE_ADDRESS}
  errors
  template ANY ANY {{
    rcode NXDOMAIN
  }}
}}
"""


def install(api: Api) -> None:
    """Create the objects that CoreDNS and storage need."""
    for collection, manifests in MANIFESTS.items():
        for manifest in manifests:
            metadata = manifest["metadata"]
            assert isinstance(metadata, dict)
            api.apply(f"{collection}/{metadata['name']}", manifest)


def listens_to_dns(udp_table: str) -> bool:
    """Whether a /proc/PID/net/udp lists a socket on port 53 of the address of the control plane."""
    little_endian = "".join(f"{int(part):02X}" for part in reversed(CONTROL_PLANE_ADDRESS.split(".")))
    return any(f"{little_endian}:0035" in line.split()[1:2] for line in udp_table.splitlines())
