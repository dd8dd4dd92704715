"""Measures the start of 50 jobs of 8 nodes until every node pod runs, against plain concurrent POSTs of the same pods.

Fake nodes (kwok) run the pods, so the figures show the control plane: API server, scheduler and operator. Both sides
are measured in turn in the same run, on the same cluster, with the same client. The result is the ratio.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from support.api import Api
from support.kwok import SELECTOR, TOLERATION, fake_nodes, playing
from torchrun_operator.api.names import LABEL_ROLE, ROLE_NODE
from torchrun_operator.api.v1alpha1 import job_of
from torchrun_operator.render.node_pod import node_pod

_NODES = 50
_NAMESPACE = "bench-scale"
_POLL_SECONDS = 0.2
_GIVE_UP_SECONDS = 300.0
_POD_SPEC: dict[str, Any] = {
    "terminationGracePeriodSeconds": 1,
    "nodeSelector": SELECTOR,
    "tolerations": [TOLERATION],
    "containers": [
        {
            "name": "trainer",
            "image": "example.invalid/trainer:1",
            "command": ["torchrun", "/workspace/train.py"],
            "resources": {"requests": {"cpu": "100m", "memory": "100Mi"}},
        }
    ],
}


def plain_pods(jobs: int, nodes: int) -> list[dict[str, Any]]:
    """Return the pods that the operator creates for these jobs, with names and labels that it ignores."""
    pods = []
    for number in range(jobs):
        manifest = job(number, nodes)
        manifest["metadata"] |= {"uid": str(uuid.UUID(int=number)), "generation": 1, "resourceVersion": "1"}
        made = job_of(manifest)
        for index in range(nodes):
            pod = node_pod(made, index)
            metadata = pod["metadata"]
            del metadata["ownerReferences"]  # No owner has that uid, so the garbage collector would delete the pod.
            metadata["name"] = f"plain-{metadata['name']}"
            metadata["labels"] = {f"bench.{label}": value for label, value in metadata["labels"].items()}
            pods.append(pod)
    return pods


def job(number: int, nodes: int) -> dict[str, Any]:
    """Return a job of that many nodes."""
    return {
        "apiVersion": "torchrun.dev/v1alpha1",
        "kind": "TorchrunJob",
        "metadata": {"name": f"job-{number}", "namespace": _NAMESPACE},
        "spec": {"nnodes": nodes, "nprocPerNode": 1, "template": {"spec": _POD_SPEC}},
    }


async def running(api: Api, selector: str, count: int) -> None:
    """Wait until that many pods run. Raises TimeoutError.

    Uses a watch of running pods: polling would load the API server that is measured.
    """
    query = f"watch=true&labelSelector={selector}&fieldSelector=status.phase=Running"
    seen: set[str] = set()
    async with asyncio.timeout(_GIVE_UP_SECONDS):
        while True:  # An API server under load ends watches early.
            async for event in api.watch(f"api/v1/namespaces/{_NAMESPACE}/pods?{query}"):
                seen.add(event["object"]["metadata"]["name"])
                if len(seen) >= count:
                    return


async def gone(api: Api) -> None:
    """Wait until no pod is left. Raises TimeoutError."""
    async with asyncio.timeout(_GIVE_UP_SECONDS):
        while True:
            if not (await api.call("GET", f"api/v1/namespaces/{_NAMESPACE}/pods"))["items"]:
                return
            await asyncio.sleep(_POLL_SECONDS)


async def measure_plain(api: Api, pods: list[dict[str, Any]]) -> float:
    """Return the seconds from the first POST until every pod runs."""
    started = time.monotonic()
    path = f"api/v1/namespaces/{_NAMESPACE}/pods"
    await asyncio.gather(*[api.call("POST", path, pod) for pod in pods])
    await running(api, f"bench.{LABEL_ROLE}={ROLE_NODE}", len(pods))
    seconds = time.monotonic() - started
    await api.call("DELETE", f"{path}?gracePeriodSeconds=0")
    await gone(api)
    return seconds


async def measure_jobs(api: Api, jobs: int, nodes: int) -> float:
    """Return the seconds from the first POST of a job until every node pod of all jobs runs."""
    started = time.monotonic()
    path = f"apis/torchrun.dev/v1alpha1/namespaces/{_NAMESPACE}/torchrunjobs"
    await asyncio.gather(*[api.call("POST", path, job(number, nodes)) for number in range(jobs)])
    await running(api, f"{LABEL_ROLE}={ROLE_NODE}", jobs * nodes)
    seconds = time.monotonic() - started
    await api.call("DELETE", path)
    await gone(api)
    return seconds


async def run(jobs: int, nodes: int, repetitions: int) -> dict[str, Any]:
    """Measure both sides in turn. Returns every figure, in seconds."""
    plain: list[float] = []
    ours: list[float] = []
    async with Api.connected() as api, fake_nodes(api, _NODES), api.namespace(_NAMESPACE):
        for repetition in range(repetitions + 1):
            pair = await measure_plain(api, plain_pods(jobs, nodes)), await measure_jobs(api, jobs, nodes)
            if repetition == 0:
                continue  # The first pair warms the caches of both sides.
            plain.append(pair[0])
            ours.append(pair[1])
            print(f"plain {pair[0]:6.1f} s   jobs {pair[1]:6.1f} s   ratio {pair[1] / pair[0]:.2f}", flush=True)
    ratios = [mine / theirs for mine, theirs in zip(ours, plain, strict=True)]
    return {
        "jobs": jobs,
        "nodes_per_job": nodes,
        "plain_seconds": plain,
        "jobs_seconds": ours,
        "ratios": ratios,
        "median_ratio": statistics.median(ratios),
    }


def main() -> None:
    """Run as `python -m bench.scale` with the operator installed. Exits with 1 if the median ratio is above --most."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--nodes", type=int, default=8, help="nodes of each job")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--most", type=float, default=2.0, help="the highest accepted ratio")
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    with playing():
        figures = asyncio.run(run(arguments.jobs, arguments.nodes, arguments.repetitions))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"median ratio {figures['median_ratio']:.2f} (at most {arguments.most:g} is accepted)")
    sys.exit(0 if figures["median_ratio"] <= arguments.most else 1)


if __name__ == "__main__":
    main()
