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
