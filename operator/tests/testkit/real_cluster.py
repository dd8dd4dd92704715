"""The adapter of the operator on the real API server of the integration tests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from kubernetes.aio import client, config

from torchrun_operator.cluster.kubernetes import KubernetesCluster


@asynccontextmanager
async def adapter(server: Any) -> AsyncIterator[KubernetesCluster]:
    configuration = client.Configuration()
    await config.load_kube_config(config_file=str(server.as_operator().kubeconfig), client_configuration=configuration)
    cluster = KubernetesCluster(configuration, lambda *_: None, lambda _key: None)
    try:
        yield cluster
    finally:
        await cluster.aclose()


def version(server: Any, path: str) -> str:
    status, answer = server.request("GET", path)
    assert status == 200, answer
    found: str = answer["metadata"]["resourceVersion"]
    return found


def path_of(manifest: Any) -> str:
    if manifest["kind"] == "NetworkPolicy":
        api, plural = "/apis/networking.k8s.io/v1", "networkpolicies"
    else:
        api, plural = "/api/v1", f"{manifest['kind'].lower()}s"
    return f"{api}/namespaces/{manifest['metadata']['namespace']}/{plural}/{manifest['metadata']['name']}"
