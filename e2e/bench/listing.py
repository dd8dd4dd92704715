"""Measures the peak memory of an operator that starts in a cluster with many pods of jobs.

A small API server with pods of the usual size answers, in a process of its own. The operator's watch of pods runs in
another process, which reports its peak. So no other part of the operator and no cache of a cluster is in the figure.
"""

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import time
from typing import Any

from aiohttp import web
from kubernetes.aio import client

from torchrun_operator.api.v1alpha1 import job_of
from torchrun_operator.cluster.kubernetes import KubernetesCluster
from torchrun_operator.render.node_pod import node_pod

_NODES_PER_JOB = 50


def pods(count: int) -> list[dict[str, Any]]:
    """Return running pods of jobs, as the API server returns them."""
    return [_pod(number // _NODES_PER_JOB, number % _NODES_PER_JOB) for number in range(count)]


def _pod(number: int, index: int) -> dict[str, Any]:
    job = {
        "apiVersion": "torchrun.dev/v1alpha1",
        "kind": "TorchrunJob",
        "metadata": {"name": f"job-{number}", "namespace": "bench", "uid": f"uid-{number}", "resourceVersion": "1"},
        "spec": {"nnodes": _NODES_PER_JOB, "template": {"spec": {"containers": [_CONTAINER]}}},
    }
    pod = json.loads(json.dumps(node_pod(job_of(job), index)))
    pod["metadata"] |= {
        "uid": f"{number:08}-0000-4000-8000-{index:012}",
        "resourceVersion": str(1000 + number * _NODES_PER_JOB + index),
        "creationTimestamp": "2026-01-31T12:00:00Z",
        "managedFields": [_managed(manager) for manager in ("torchrun-operator", "kube-scheduler", "kubelet")],
    }
    pod["spec"]["nodeName"] = f"machine-{number}-{index}"
    pod["status"] = _status(number, index)
    return dict(pod)


_CONTAINER = {
    "name": "trainer",
    "image": "registry.example.com/team/trainer:1",
    "command": ["torchrun", "/workspace/train.py", "--epochs", "90", "--data", "/data/imagenet"],
    "env": [{"name": f"SETTING_{number}", "value": "a value of some length"} for number in range(20)],
    "resources": {"limits": {"nvidia.com/gpu": 8, "cpu": "64", "memory": "512Gi"}},
}


def _managed(manager: str) -> dict[str, Any]:
    named: dict[str, Any] = {".": {}, "f:name": {}, "f:value": {}}
    fields = {f'k:{{"name":"field-{number}"}}': named for number in range(25)}
    return {"manager": manager, "operation": "Update", "apiVersion": "v1", "fieldsV1": {"f:spec": fields}}


def _status(number: int, index: int) -> dict[str, Any]:
    kinds = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    time = "2026-01-31T12:00:01Z"
    return {
        "phase": "Running",
        "conditions": [
            {"type": kind, "status": "True", "lastProbeTime": None, "lastTransitionTime": time} for kind in kinds
        ],
        "hostIP": f"192.168.{number % 250}.{index}",
        "hostIPs": [{"ip": f"192.168.{number % 250}.{index}"}],
        "podIP": f"10.{number % 250}.0.{index}",
        "podIPs": [{"ip": f"10.{number % 250}.0.{index}"}],
        "startTime": time,
        "qosClass": "Burstable",
        "containerStatuses": [
            {
                "name": "trainer",
                "state": {"running": {"startedAt": time}},
                "lastState": {},
                "ready": True,
                "started": True,
                "restartCount": 0,
                "image": "registry.example.com/team/trainer:1",
                "imageID": "registry.example.com/team/trainer@sha256:" + "0" * 64,
                "containerID": f"containerd://{number:032}{index:032}",
                "volumeMounts": [{"name": "snapshots", "mountPath": "/snapshots"}],
            }
        ],
    }


async def serve(count: int) -> None:
    """Serve that many pods on any port, which is written to the standard output. Runs forever."""
    made = [json.dumps(pod) for pod in pods(count)]

    async def listed(request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            await asyncio.Event().wait()
        begin = int(request.query.get("continue", 0))
        end = min(count, begin + int(request.query.get("limit", count)))
        more = {"continue": str(end)} if end < count else {}
        metadata = json.dumps({"resourceVersion": "1000000", **more})
        text = f'{{"metadata": {metadata}, "items": [{",".join(made[begin:end])}]}}'
        return web.Response(text=text, content_type="application/json")

    application = web.Application()
    application.router.add_get("/api/v1/pods", listed)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


async def follow(url: str) -> dict[str, float]:
    """Return the peak memory of this process in MB before and after it has listed the pods, and the seconds."""
    configuration = client.Configuration()
    configuration.host = url
    cluster = KubernetesCluster(configuration, lambda *_: None, lambda _key: None)
    (watch,) = (watch for watch in cluster.watches if watch.kind == "pods")
    before, started = _peak(), asyncio.get_running_loop().time()
    task = asyncio.create_task(watch.run())
    while not watch.synced:  # noqa: ASYNC110 - a watch does not notify
        await asyncio.sleep(0.01)
    seconds = asyncio.get_running_loop().time() - started
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await cluster.aclose()
    return {"started_mb": before, "peak_mb": _peak(), "seconds": seconds, "cpu_seconds": time.process_time()}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def measure(count: int) -> dict[str, float]:
    """Return the figures for that many pods."""
    server = subprocess.Popen([sys.executable, __file__, "--serve", str(count)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}"
        found = subprocess.check_output([sys.executable, __file__, "--follow", url], text=True)
        return dict(json.loads(found.splitlines()[-1]))
    finally:
        server.kill()
        server.wait()


def main() -> None:
    """Run as a script: it starts itself again for its parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument("--most", type=float, default=400, help="the highest accepted peak in MB")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--follow", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve(arguments.serve))
    elif arguments.follow:
        print(json.dumps(asyncio.run(follow(arguments.follow))))
    else:
        found = measure(arguments.pods)
        print(f"{arguments.pods} pods: peak {found['peak_mb']:.0f} MB, {found['started_mb']:.0f} MB at the start")
        print(f"listed in {found['seconds']:.1f} s, {found['cpu_seconds']:.1f} s of processor time")
        print(f"at most {arguments.most:g} MB is accepted")
        sys.exit(0 if found["peak_mb"] <= arguments.most else 1)


if __name__ == "__main__":
    main()
