"""Kills the pod of the operator repeatedly while jobs start, then checks the objects of each job.

The Kubernetes nodes are fake (kwok). The test shows that the next pass repairs one that was killed at any point: no
object is missing, doubled or orphaned.
"""

import argparse
import asyncio
import random
import sys
from collections import Counter
from typing import Any

from support.api import Api
from support.kwok import SELECTOR, TOLERATION, fake_nodes, playing

_NAMESPACE = "chaos-operator"
_NODES = 4
_SETTLE_SECONDS = 120.0
_POLL_SECONDS = 0.3
_PODS = f"api/v1/namespaces/{_NAMESPACE}/pods"
_JOBS = f"apis/torchrun.dev/v1alpha1/namespaces/{_NAMESPACE}/torchrunjobs"
_KINDS = {
    "pods": "api/v1",
    "services": "api/v1",
    "configmaps": "api/v1",
    "networkpolicies": "apis/networking.k8s.io/v1",
}


def job(name: str) -> dict[str, Any]:
    """Return a job that owns every kind of object."""
    container = {
        "name": "trainer",
        "image": "example.invalid/trainer:1",
        "command": ["torchrun", "/workspace/train.py"],
    }
    return {
        "apiVersion": "torchrun.dev/v1alpha1",
        "kind": "TorchrunJob",
        "metadata": {"name": name, "namespace": _NAMESPACE},
        "spec": {
            "nnodes": f"2:{_NODES}",
            "nprocPerNode": 1,
            "files": [{"path": "/workspace/train.py", "content": "print('hello')"}],
            "template": {
                "spec": {"nodeSelector": SELECTOR, "tolerations": [TOLERATION], "containers": [container]},
            },
        },
    }


def expected(names: list[str]) -> dict[str, Counter[str]]:
    """Return how often each object must exist, by kind."""
    return {
        "pods": Counter(f"{name}-{part}" for name in names for part in [*range(_NODES), "rdzv"]),
        "services": Counter(f"{name}{part}" for name in names for part in ("", "-rdzv")),
        "configmaps": Counter(f"{name}{part}" for name in names for part in ("-files", "-rdzv")),
        "networkpolicies": Counter(f"{name}-{part}" for name in names for part in ("nodes", "rdzv")),
    }


async def found(api: Api) -> dict[str, Counter[str]]:
    """Return the objects with the label of a job, with the job as controller, by kind."""
    uids = {item["metadata"]["name"]: item["metadata"]["uid"] for item in (await api.call("GET", _JOBS))["items"]}
    result = {}
    for kind, api_version in _KINDS.items():
        path = f"{api_version}/namespaces/{_NAMESPACE}/{kind}?labelSelector=torchrun.dev/job-name"
        items = (await api.call("GET", path))["items"]
        result[kind] = Counter(
            item["metadata"]["name"] if _owned(item, uids) else f"orphan {item['metadata']['name']}" for item in items
        )
    return result


def _owned(item: dict[str, Any], uids: dict[str, str]) -> bool:
    owner = (item["metadata"].get("ownerReferences") or [{}])[0]
    return bool(owner) and uids.get(owner.get("name", "")) == owner.get("uid")


async def kill_operator(api: Api, namespace: str) -> None:
    """Kill the pod of the operator without grace and wait for the next one. Raises TimeoutError."""
    path = f"api/v1/namespaces/{namespace}/pods?labelSelector=app.kubernetes.io/name=torchrun-operator"
    victims = (await api.call("GET", path))["items"]
    dead = {pod["metadata"]["uid"] for pod in victims}
    for pod in victims:
        name = pod["metadata"]["name"]
        await api.call("DELETE", f"api/v1/namespaces/{namespace}/pods/{name}?gracePeriodSeconds=0")
    async with asyncio.timeout(_SETTLE_SECONDS):
        while True:
            pods = (await api.call("GET", path))["items"]
            if any(pod["metadata"]["uid"] not in dead and pod["status"].get("phase") == "Running" for pod in pods):
                return
            await asyncio.sleep(_POLL_SECONDS)


async def settled(api: Api, names: list[str]) -> dict[str, Counter[str]]:
    """Wait until the existing objects are the expected ones, up to a limit. Returns the existing objects."""
    for _ in range(int(_SETTLE_SECONDS / _POLL_SECONDS)):
        if await found(api) == expected(names):
            break
        await asyncio.sleep(_POLL_SECONDS)
    return await found(api)


async def run(jobs: int, kills: int, namespace: str, chance: random.Random) -> list[str]:
    """Start jobs while the operator is killed. Returns the problems found afterwards, a line each."""
    names = [f"job-{number}" for number in range(jobs)]
    async with Api.connected() as api, fake_nodes(api, 10), api.namespace(_NAMESPACE):
        pending = list(names)
        for kill in range(kills):
            while pending and len(pending) * kills > (kills - kill - 1) * jobs:
                await api.call("POST", _JOBS, job(pending.pop()))
            await asyncio.sleep(chance.uniform(0.0, 2.5))
            await kill_operator(api, namespace)
            print(f"operator killed {kill + 1} of {kills} times, {jobs - len(pending)} jobs started", flush=True)
        there, should = await settled(api, names), expected(names)
        wrong = [
            f"{kind} {name}: {there[kind][name]} found, {should[kind][name]} expected"
            for kind in should
            for name in sorted({*there[kind], *should[kind]})
            if there[kind][name] != should[kind][name]
        ]
        restarts = {item["metadata"]["name"]: item["status"] for item in (await api.call("GET", _JOBS))["items"]}
        wrong += [
            f"{name}: restarts {status.get('restarts')}"
            for name, status in restarts.items()
            if status.get("restartCount")
        ]
    return wrong


def main() -> None:
    """Run as `python -m chaos.operator_restarts` with the operator installed. Exits with 1 if it finds a problem."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--namespace", default="torchrun-system", help="namespace of the operator")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    with playing():
        chance = random.Random(arguments.seed)
        wrong = asyncio.run(run(arguments.jobs, arguments.kills, arguments.namespace, chance))
    for line in wrong:
        print(line)
    print(f"{arguments.jobs} jobs, {arguments.kills} kills: {len(wrong)} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
