"""The measurement: deaths of nodes of good jobs, in phases with and without hostile jobs beside them.

The API server is a real one (KUBECONFIG). Pods run nowhere: this program writes their statuses, deletes them, and
plays the rendezvous hosts. The hostile hosts are good in every other phase, so both figures come from the same run.
The deaths of a phase are spread over all good jobs.
"""

import asyncio
import contextlib
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from bench.hostile.hosts import Behavior, Host, serving
from bench.hostile.processes import Operator
from support.api import Api
from torchrun_operator.api.names import LABEL_JOB_NAME, LABEL_ROLE, ROLE_RENDEZVOUS

_NAMESPACE = "bench-hostile"
_PODS = f"api/v1/namespaces/{_NAMESPACE}/pods"
_JOBS = f"apis/torchrun.dev/v1alpha1/namespaces/{_NAMESPACE}/torchrunjobs"
_CRD = Path(__file__).resolve().parents[3] / "crds" / "torchrun.dev_torchrunjobs.yaml"
_START_SECONDS = 300.0
_SETTLE_SECONDS = 3.0
_SPACING_SECONDS = 0.5
"""Between two deaths. Each node of 20 jobs dies every 20 s: one that dies sooner is not replaced at once."""
_NODES = 2


class World:
    """The pods, as the API server reports them, and the hosts of the jobs."""

    def __init__(self, api: Api, hosts: dict[str, Host]) -> None:
        self.api = api
        self.hosts = hosts
        self.running: dict[str, dict[str, str]] = {name: {} for name in hosts}
        """Addresses of running node pods by pod name, by job."""
        self.waits: dict[str, tuple[str, float, asyncio.Future[float]]] = {}
        """Dead pods: uid, time of death, and the seconds until the replacement was created."""
        self._next = iter(range(1, 2**24))

    async def play(self) -> None:
        """Let each new pod run at once, and show the running ones to the host of the job. Runs forever."""
        while True:
            with contextlib.suppress(TimeoutError):
                async for event in self.api.watch(f"{_PODS}?watch=true&labelSelector={LABEL_JOB_NAME}"):
                    await self._seen(event["type"], event["object"])

    async def _seen(self, kind: str, pod: dict[str, Any]) -> None:
        name, labels = pod["metadata"]["name"], pod["metadata"]["labels"]
        job, is_host = labels[LABEL_JOB_NAME], labels[LABEL_ROLE] == ROLE_RENDEZVOUS
        if kind == "ADDED" and (dead := self.waits.get(name)) and dead[0] != pod["metadata"]["uid"]:
            dead[2].set_result(time.monotonic() - dead[1])
            del self.waits[name]
        if kind == "DELETED" or pod["status"].get("phase") in ("Failed", "Succeeded"):
            self.running[job].pop(name, None)
        elif not pod["status"].get("podIP"):
            number = next(self._next)
            address = self.hosts[job].address if is_host else f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
            await self._run(pod, address)
            if not is_host:
                self.running[job][name] = address
        self.hosts[job].show(tuple(sorted(self.running[job].values())))

    async def _run(self, pod: dict[str, Any], address: str) -> None:
        started = "2026-01-31T12:00:00Z"
        pod["metadata"].pop("resourceVersion")
        pod["status"] = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": started,
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": started}],
            "containerStatuses": [
                {
                    "name": container["name"],
                    "state": {"running": {"startedAt": started}},
                    "ready": True,
                    "restartCount": 0,
                    "image": "example.invalid/trainer:1",
                    "imageID": "",
                }
                for container in pod["spec"]["containers"]
            ],
        }
        with contextlib.suppress(RuntimeError):  # it was deleted
            await self.api.call("PUT", f"{_PODS}/{pod['metadata']['name']}/status", pod)

    async def kill(self, name: str) -> float:
        """Kill the pod of a node. Return the seconds until its replacement exists."""
        pod = await self.api.call("GET", f"{_PODS}/{name}")
        done: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self.waits[name] = pod["metadata"]["uid"], time.monotonic(), done
        await self.api.call("DELETE", f"{_PODS}/{name}?gracePeriodSeconds=0")
        async with asyncio.timeout(_START_SECONDS):
            return await done

    async def trained(self) -> None:
        """Wait until every good job trains. Raises TimeoutError."""
        async with asyncio.timeout(_START_SECONDS):
            while True:
                jobs = (await self.api.call("GET", _JOBS))["items"]
                good = [job for job in jobs if job["metadata"]["name"].startswith("good")]
                if all((job.get("status") or {}).get("state") == "Running" for job in good):
                    return
                await asyncio.sleep(0.5)


def job(name: str) -> dict[str, Any]:
    """Return a job of two nodes."""
    container = {"name": "trainer", "image": "example.invalid/trainer:1", "command": ["torchrun", "/train.py"]}
    return {
        "apiVersion": "torchrun.dev/v1alpha1",
        "kind": "TorchrunJob",
        "metadata": {"name": name, "namespace": _NAMESPACE},
        "spec": {"nnodes": _NODES, "nprocPerNode": 1, "template": {"spec": {"containers": [container]}}},
    }


async def phase(world: World, process: Operator, good: list[str], first: int, deaths: int) -> dict[str, Any]:
    """Kill that many nodes. Return the seconds until each was replaced, and what the operator used."""
    await world.trained()
    await asyncio.sleep(_SETTLE_SECONDS)
    answers, cpu, began = sum(host.answers for host in world.hosts.values()), process.cpu_seconds, time.monotonic()
    kills = []
    for number in range(first, first + deaths):
        job, index = good[number % len(good)], number // len(good) % _NODES
        while len(world.running[job]) < _NODES:  # noqa: ASYNC110 - the watch does not notify
            await asyncio.sleep(0.05)
        kills.append(asyncio.create_task(world.kill(f"{job}-{index}")))
        await asyncio.sleep(_SPACING_SECONDS)
    seconds = list(await asyncio.gather(*kills))
    took = time.monotonic() - began
    return {
        "seconds": seconds,
        "cpu": (process.cpu_seconds - cpu) / took,
        "answers_per_second": (sum(host.answers for host in world.hosts.values()) - answers) / took,
        "peak_mb": process.peak_mb,
    }


async def run(process: Operator, jobs: int, behaviors: list[Behavior], deaths: int, repetitions: int) -> dict[str, Any]:
    """Measure all phases. Returns the figures of both kinds."""
    good = [f"good-{number}" for number in range(jobs)]
    hostile = [f"hostile-{behavior}" for behavior in behaviors]
    hosts = {name: Host(f"127.1.{number}.1") for number, name in enumerate([*good, *hostile])}
    figures: dict[str, list[dict[str, Any]]] = {"without": [], "with": []}
    async with Api.connected() as api, serving([*hosts.values()]):
        await _ready(api)
        await api.call(
            "POST", "apis/apiextensions.k8s.io/v1/customresourcedefinitions", yaml.safe_load(_CRD.read_text())
        )
        await api.call("POST", "api/v1/namespaces", {"metadata": {"name": _NAMESPACE}})
        world = World(api, hosts)
        playing = asyncio.create_task(world.play())
        await _served(api, _JOBS)
        await asyncio.gather(*[api.call("POST", _JOBS, job(name)) for name in hosts])
        for number in range(2 * repetitions):
            kind = "with" if number % 2 else "without"
            for name, behavior in zip(hostile, behaviors, strict=True):
                hosts[name].behavior = behavior if kind == "with" else None
                hosts[name].bump()
            found = await phase(world, process, good, number * deaths, deaths)
            figures[kind].append(found)
            print(f"{kind:8} hostile jobs: {_line(found)}", file=sys.stderr)
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
    both = {kind: _together(found) for kind, found in figures.items()}
    for kind, together in both.items():
        print(f"{kind:8} hostile jobs, all phases: {_line(together)}", file=sys.stderr)
    return {**both, "ratio": percentile(both["with"]["seconds"], 99) / percentile(both["without"]["seconds"], 99)}


async def _ready(api: Api) -> None:
    await _served(api, "readyz?verbose=false", text=True)


async def _served(api: Api, path: str, *, text: bool = False) -> None:
    async with asyncio.timeout(_START_SECONDS):
        while True:
            try:
                await api.call("GET", path)
            except json.JSONDecodeError:
                if text:
                    return
            except (RuntimeError, OSError):
                await asyncio.sleep(0.2)
            else:
                return


def _together(found: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = [second for one in found for second in one["seconds"]]
    mean = {name: statistics.mean(one[name] for one in found) for name in ("cpu", "answers_per_second")}
    return {"seconds": seconds, **mean, "peak_mb": max(one["peak_mb"] for one in found)}


def _line(found: dict[str, Any]) -> str:
    p50, p99 = percentile(found["seconds"], 50), percentile(found["seconds"], 99)
    return (
        f"p50 {p50:.3f} s, p99 {p99:.3f} s of {len(found['seconds'])} deaths; operator: {found['cpu']:.0%} of a core, "
        f"peak {found['peak_mb']:.0f} MB; hosts: {found['answers_per_second']:.0f} answers/s"
    )


def percentile(values: list[float], percent: int) -> float:
    """Return the smallest value that at least this share of the values does not exceed."""
    return sorted(values)[-(-len(values) * percent // 100) - 1]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(Operator(int(sys.argv[1])), **json.loads(sys.argv[2])))))
