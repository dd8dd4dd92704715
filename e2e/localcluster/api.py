"""The few calls of the Kubernetes API that starting a cluster needs."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from localcluster.shell import ClusterError

_APPLY = "?fieldManager=local-cluster&force=true"
_TIMEOUT = 5.0  # seconds


class Api:
    """The API server of the cluster, with the credentials of an administrator."""

    def __init__(self, pki: Path, port: int) -> None:
        self._port = port
        self._tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        self._tls.load_cert_chain(pki / "admin.crt", pki / "admin.key")

    def call(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        """Status and body of one call. Raises OSError or http.client.HTTPException if there is no answer."""
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, context=self._tls, timeout=_TIMEOUT)
        headers = {"Accept": "application/json", "Content-Type": "application/apply-patch+yaml"}
        try:
            connection.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def answers(self, path: str) -> bool:
        """Whether a GET of this path succeeds now."""
        try:
            return self.call("GET", path)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def get(self, path: str) -> Any:  # noqa: ANN401 - whatever the API returns
        """Object at this path. Raises ClusterError if it cannot be read."""
        return self._checked("GET", path)

    def delete(self, path: str) -> None:
        """Delete the object at this path if it exists."""
        status, body = self.call("DELETE", path)
        if status not in {200, 202, 404}:
            raise ClusterError(f"DELETE {path}: {status} {body[:500]}")

    def apply(self, path: str, manifest: Mapping[str, object]) -> None:
        """Create or update the object at this path from the manifest."""
        self._checked("PATCH", path + _APPLY, manifest)

    def _checked(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401
        try:
            status, text = self.call(method, path, body)
        except (OSError, http.client.HTTPException) as error:
            raise ClusterError(f"the API server does not answer: {error!r}") from error
        if status not in {200, 201}:
            raise ClusterError(f"{method} {path}: {status} {text[:500]}")
        return json.loads(text)

    def ready_nodes(self) -> dict[str, bool]:
        """Names of the nodes of the cluster, and whether each is Ready."""
        return {node["metadata"]["name"]: is_ready(node) for node in self.get("/api/v1/nodes")["items"]}


def is_ready(node: Mapping[str, Any]) -> bool:
    """Whether a Node's Ready condition is True."""
    conditions = node.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
