"""Add-ons of the cluster: names (CoreDNS), network policies and storage."""

from __future__ import annotations

from pathlib import Path

from localcluster.api import Api
from localcluster.netns import CONTROL_PLANE_ADDRESS

_RBAC = "rbac.authorization.k8s.io"
_READ = ["list", "watch"]
# User -> rules.
_RULES: dict[str, list[dict[str, object]]] = {
    "system:coredns": [
        {"apiGroups": [""], "resources": ["services", "namespaces"], "verbs": _READ},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": _READ},
    ],
    "system:network-policies": [
        {"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": _READ},
        {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": _READ},
    ],
}


def _role(user: str) -> dict[str, object]:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": user},
        "rules": _RULES[user],
    }


def _binding(user: str) -> dict[str, object]:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": user},
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": user},
        "subjects": [{"apiGroup": _RBAC, "kind": "User", "name": user}],
    }


# Path of the collection -> objects.
MANIFESTS: dict[str, list[dict[str, object]]] = {
    f"/apis/{_RBAC}/v1/clusterroles": [_role(user) for user in _RULES],
    f"/apis/{_RBAC}/v1/clusterrolebindings": [_binding(user) for user in _RULES],
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
    """Create the objects that the add-ons need."""
    for collection, manifests in MANIFESTS.items():
        for manifest in manifests:
            metadata = manifest["metadata"]
            assert isinstance(metadata, dict)
            api.apply(f"{collection}/{metadata['name']}", manifest)


def listens_to_dns(udp_table: str) -> bool:
    """Whether a /proc/PID/net/udp lists a socket on port 53 of the address of the control plane."""
    little_endian = "".join(f"{int(part):02X}" for part in reversed(CONTROL_PLANE_ADDRESS.split(".")))
    return any(f"{little_endian}:0035" in line.split()[1:2] for line in udp_table.splitlines())
