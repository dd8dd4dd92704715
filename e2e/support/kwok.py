"""Fake Kubernetes nodes, simulated by kwok: pods on them become Running at once, so only the control plane works."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from localcluster import builds
from localcluster.paths import Layout
from support.api import Api

TAINT = "kwok.x-k8s.io/node"
TOLERATION = {"key": TAINT, "operator": "Exists"}
SELECTOR = {"type": "kwok"}


def fake_node(number: int) -> dict[str, Any]:
    """Return a Kubernetes node that kwok simulates."""
    capacity = {"cpu": "64", "memory": "256Gi", "pods": "110"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": f"kwok-{number}",
            "annotations": {TAINT: "fake"},
            "labels": {**SELECTOR, "kubernetes.io/hostname": f"kwok-{number}"},
        },
        "spec": {"taints": [{"key": TAINT, "value": "fake", "effect": "NoSchedule"}]},
        "status": {"allocatable": capacity, "capacity": capacity},
    }


def program() -> str:
    """Return kwok: the one on PATH, or else one that is built once per version."""
    return shutil.which("kwok") or str(builds.provide(Layout.of(os.environ), builds.program("kwok")))


@contextmanager
def playing() -> Iterator[None]:
    """Simulate the fake nodes of the cluster of KUBECONFIG while the block runs."""
    command = [
        program(),
        f"--kubeconfig={os.environ['KUBECONFIG']}",
        "--manage-all-nodes=false",
        f"--manage-nodes-with-annotation-selector={TAINT}=fake",
        "--node-lease-duration-seconds=40",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


@asynccontextmanager
async def fake_nodes(api: Api, count: int) -> AsyncIterator[None]:
    """Add that many fake nodes to the cluster while the block runs."""
    fakes = [fake_node(number) for number in range(count)]
    try:
        await asyncio.gather(*[api.call("POST", "api/v1/nodes", fake) for fake in fakes])
        yield
    finally:
        paths = [f"api/v1/nodes/{fake['metadata']['name']}" for fake in fakes]
        await asyncio.gather(*[api.call("DELETE", path) for path in paths], return_exceptions=True)
