"""The resources that commands read and write, and their paths."""

from typing import Final, NamedTuple
from urllib.parse import quote

from torchrun_operator.api.names import API_VERSION, KIND, PLURAL


class Resource(NamedTuple):
    """A resource of the API server. `plural` is its name in paths and messages."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """Return the path of a collection, of an object, or of its subresource. No namespace: of all namespaces."""
        group = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        parts = [group]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", quote(namespace, safe="")]
        parts += [self.plural, *(quote(part, safe="") for part in (name, subresource) if part is not None)]
        return "/".join(parts)


JOBS: Final = Resource(API_VERSION, KIND, PLURAL)
PODS: Final = Resource("v1", "Pod", "pods")
EVENTS: Final = Resource("v1", "Event", "events")
CLAIMS: Final = Resource("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
SECRETS: Final = Resource("v1", "Secret", "secrets")
CONFIG_MAPS: Final = Resource("v1", "ConfigMap", "configmaps")
SERVICE_ACCOUNTS: Final = Resource("v1", "ServiceAccount", "serviceaccounts")
QUOTAS: Final = Resource("v1", "ResourceQuota", "resourcequotas")
LIMIT_RANGES: Final = Resource("v1", "LimitRange", "limitranges")
NAMESPACES: Final = Resource("v1", "Namespace", "namespaces", namespaced=False)
NODES: Final = Resource("v1", "Node", "nodes", namespaced=False)
LEASES: Final = Resource("coordination.k8s.io/v1", "Lease", "leases")
DEPLOYMENTS: Final = Resource("apps/v1", "Deployment", "deployments")
DAEMON_SETS: Final = Resource("apps/v1", "DaemonSet", "daemonsets")
NETWORK_POLICIES: Final = Resource("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
STORAGE_CLASSES: Final = Resource("storage.k8s.io/v1", "StorageClass", "storageclasses", namespaced=False)
DEFINITIONS: Final = Resource(
    "apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False
)
