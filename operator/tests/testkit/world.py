"""A small world for the reconciler: Kubernetes nodes that run pods, agents that join a rendezvous, and time."""

import itertools
import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from builders import NOW, job_manifest
from fake_links import FakeLinks, Host
from memory_cluster import MemoryCluster, Stored
from torchrun_operator.api.names import LABEL_NODE_INDEX, LABEL_ROLE, ROLE_NODE, ROLE_RENDEZVOUS
from torchrun_operator.cluster.port import ClusterError, ConflictError, Key
from torchrun_operator.reconcile.reconciler import Outcome, Reconciler
from torchrun_operator.reconcile.tell import EventRecorder
from torchrun_operator.render.programs import Programs
from torchrun_operator.telemetry.metrics import Metrics
from torchrun_rendezvous.protocol import Member, Overdue, Pace, RendezvousState, RoundsEnded, Unrequested

PROGRAMS = Programs(rendezvous=b"the rendezvous host", launcher=b"the launcher", transfer=b"the transfer program")
KEY: Key = ("team", "digits")


@dataclass(frozen=True)
class Skews:
    """What the clocks of other computers show, less the time of the operator."""

    api_server: timedelta = timedelta(0)
    kubelets: timedelta = timedelta(0)
    hosts: timedelta = timedelta(0)


class World:
    """One job, its cluster, and an operator that can be restarted."""

    def __init__(self, skews: Skews | None = None, **spec: Any) -> None:
        self.now = NOW
        self.cluster = MemoryCluster()
        self.skews = skews or Skews()
        self.cluster.now = lambda: self.now + self.skews.api_server
        self.hosts: dict[str, Host] = {}
        self.cut_hosts: dict[str, Host] = {}
        """Those on silent Kubernetes nodes, by address."""
        self.metrics = Metrics("test")
        self._addresses = itertools.count(1)
        self._instances = itertools.count(1)
        self.silent_machines: set[str] = set()
        self.machines = 1_000_000
        """How many node pods can be scheduled."""
        self.stuck: set[str] = set()
        """uids of the pods that do not end when they are deleted."""
        self.frozen: set[str] = set()
        """uids of the pods whose agents hang."""
        self.mute = False
        """The commands of the pods start no agents."""
        self.finished: set[str] = set()
        """uids of the pods whose workers have ended with 0."""
        self.ended: list[tuple[str, int]] = []
        """The rounds that hosts have ended because the target said so."""
        self.recorder: EventRecorder | None = None
        self.job = self.cluster.add(job_manifest(**spec))
        self.restart_operator()

    def restart_operator(self) -> None:
        """Start a new operator."""
        if self.recorder is not None:
            self.recorder.close()
        self.links = FakeLinks(self.hosts, self._seconds)
        self.links.skew = self.skews.hosts
        self.reconciler = Reconciler(self.cluster, self.links, self.metrics, lambda: self.now, PROGRAMS)
        self.recorder = self.reconciler.recorder

    def _seconds(self) -> float:
        return self.now.timestamp()

    @property
    def status(self) -> dict[str, Any]:
        """The stored status of the job."""
        status: dict[str, Any] = self.job.get("status") or {}
        return status

    @property
    def pods(self) -> dict[str, Stored]:
        """All pods, by name."""
        return {pod["metadata"]["name"]: pod for pod in self.cluster.pods()}

    @property
    def nodes(self) -> dict[str, Stored]:
        """The job's node pods, by name."""
        return {name: pod for name, pod in self.pods.items() if pod["metadata"]["labels"].get(LABEL_ROLE) == ROLE_NODE}

    def condition(self, type_: str) -> dict[str, Any]:
        """Return a condition of the job; empty if it is not set."""
        return next((c for c in self.status.get("conditions", ()) if c["type"] == type_), {})

    async def reconcile(self) -> Outcome | None:
        """Make one pass. Return None if it failed with an error that the next pass repairs."""
        try:
            outcome = await self.reconciler.reconcile(KEY)
        except (ClusterError, ConflictError):
            outcome = None
        await self.reconciler.recorder.idle()
        return outcome

    async def settle(self, rounds: int = 400) -> None:
        """Reconcile and let the world continue, second by second, until nothing changes for longer than any timer."""
        quiet, before = 0, ""
        for _ in range(rounds):
            await self.reconcile()
            self.live()
            after = self._picture()
            quiet, before = (quiet + 1 if after == before else 0), after
            if quiet > 3:
                return
            self.now += timedelta(seconds=20 if quiet else 1)
        raise AssertionError(f"not quiet after {rounds} passes: {self.status}")

    def _picture(self) -> str:
        things = {str(key): thing for key, thing in self.cluster.objects.items() if key[0] in ("Pod", "TorchrunJob")}
        return json.dumps(things, sort_keys=True)

    def live(self) -> None:
        """Let Kubernetes nodes, agents and hosts do one step."""
        for pod in self.pods.values():
            kept = pod["metadata"]["uid"] in self.stuck or pod["spec"].get("nodeName") in self.silent_machines
            if "deletionTimestamp" in pod["metadata"] and not kept:
                self.cluster.remove(pod)
            if pod["spec"].get("activeDeadlineSeconds") == 1 and pod["status"]["phase"] == "Running":
                self._stop(pod)
        self._hosts_come_and_go()
        for name, pod in self.pods.items():
            if pod["status"]["phase"] == "Pending" and (self._has_place() or name not in self.nodes):
                self.run(pod)
        self._agents()

    def _has_place(self) -> bool:
        return sum(1 for pod in self.nodes.values() if pod["spec"].get("nodeName")) < self.machines

    def run(self, pod: Stored) -> None:
        """Schedule a pod to its own Kubernetes node and start it."""
        number = next(self._addresses)
        name = f"machine-{number}"
        self.cluster.add_machine(name)
        pod["spec"]["nodeName"] = name
        pod["metadata"]["creationTimestamp"] = _text(self.now + self.skews.api_server)
        pod["status"] = {
            "phase": "Running",
            "startTime": _text(self.now + self.skews.kubelets),
            "podIP": f"10.0.{number // 250}.{number % 250}",
        }
        self.cluster.touch(pod)

    def end(self, pod: Stored, code: int, reason: str = "Error", **status: Any) -> None:
        """End the trainer container of a pod."""
        ended = {"exitCode": code, "reason": reason, "finishedAt": _text(self.now + self.skews.kubelets)}
        pod["status"] |= {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [{"name": "trainer", "state": {"terminated": ended}}],
            **status,
        }
        self.cluster.touch(pod)

    def reject(self, pod: Stored, reason: str = "", message: str = "") -> None:
        """Let a pod fail before its trainer container runs: its kubelet rejects it, or an init container fails."""
        pod["status"] |= {"phase": "Failed"} | ({"reason": reason, "message": message} if reason else {})
        self.cluster.touch(pod)

    def fail_init(self, pod: Stored, container: str, code: int) -> None:
        """Let an init container of a pod fail."""
        ended = {"exitCode": code, "reason": "Error", "finishedAt": _text(self.now + self.skews.kubelets)}
        pod["status"] |= {
            "phase": "Failed",
            "initContainerStatuses": [{"name": container, "state": {"terminated": ended}}],
            "containerStatuses": [{"name": "trainer", "state": {"waiting": {"reason": "PodInitializing"}}}],
        }
        self.cluster.touch(pod)

    def _stop(self, pod: Stored) -> None:
        """End the containers of a pod whose deadline has passed, as its kubelet does."""
        killed = {"exitCode": 143, "reason": "Error", "finishedAt": _text(self.now)}
        for container in pod["status"].setdefault("containerStatuses", [{"name": "trainer", "state": {"running": {}}}]):
            if "running" in container["state"]:
                container["state"] = {"terminated": killed}
        pod["status"] |= {"phase": "Failed", "reason": "DeadlineExceeded"}
        self.cluster.touch(pod)

    def delete(self, name: str) -> None:
        """Remove a pod at once, as with a Kubernetes node that is gone."""
        self.cluster.remove(self.pods[name])

    def cut_off(self, name: str) -> str:
        """Cut the network of a pod's Kubernetes node: its processes continue, but no message leaves it."""
        machine: str = self.pods[name]["spec"]["nodeName"]
        self.silent_machines.add(machine)
        for host in self.hosts.values():
            host.state = replace(host.state, silent=self._unheard())
        return machine

    def give_up(self, machine: str) -> None:
        """Let the API server report the silent Kubernetes node, about 40 s later."""
        self.cluster.set_ready(machine, "Unknown")

    def heal(self, machine: str) -> None:
        """Restore the network of the Kubernetes node: its kubelet ends pods that should not run there."""
        self.silent_machines.discard(machine)
        self.cluster.set_ready(machine, "True")

    def _unheard(self) -> tuple[str, ...]:
        pods = (pod for pod in self.nodes.values() if pod["spec"].get("nodeName") in self.silent_machines)
        return tuple(sorted(pod["status"]["podIP"] for pod in pods))

    def fail_workers(self) -> None:
        """Let the workers of the round fail by themselves. Their agents form the next round, unless they hang."""
        hanging = {pod["status"].get("podIP") for pod in self.nodes.values() if pod["metadata"]["uid"] in self.frozen}
        for host in self.hosts.values():
            state = host.state
            missing = {*state.missing, *(member.address for member in state.members if member.address in hanging)}
            host.state = replace(
                state,
                complete=False,
                rounds_ended=RoundsEnded(0, state.rounds_ended.unrequested + 1),
                last_unrequested=Unrequested(
                    state.round, tuple(member.address for member in state.members[:1]), self.now + self.skews.hosts
                ),
                members=(),
                missing=tuple(sorted(missing)),
            )

    def finish(self, name: str) -> None:
        """Let the workers of one node end with 0. Its agent waits for the others."""
        for host in self.hosts.values():
            host.state = replace(host.state, finished=host.state.finished + 1)
        self.finished.add(self.pods[name]["metadata"]["uid"])

    def fail_workers_of(self, name: str) -> None:
        """Let the workers of a node fail after those of another one have finished: its agent waits in vain."""
        address = self.pods[name]["status"]["podIP"]
        for host in self.hosts.values():
            state = host.state
            host.state = replace(
                state,
                complete=False,
                members=tuple(member for member in state.members if member.address != address),
                unfinished=(address,),
                rounds_ended=RoundsEnded(0, state.rounds_ended.unrequested + 1),
                last_unrequested=Unrequested(state.round, (address,), self.now),
            )

    def hang(self, *frozen: str) -> None:
        """Let the workers report no step for longer than any deadline. The agents in these pods hang forever."""
        self.frozen |= {self.pods[name]["metadata"]["uid"] for name in frozen}
        for host in self.hosts.values():
            overdue = Overdue(host.state.round, 100, starting=False, seconds=300.0, since=self.now + self.skews.hosts)
            host.state = replace(host.state, pace=Pace(longest_start_seconds=8.0, overdue=overdue))

    def _hosts_come_and_go(self) -> None:
        """Start and end hosts. One that is cut off closes no connection: its agents hang until it is back."""
        running = {
            pod["status"]["podIP"]: pod["spec"].get("nodeName") in self.silent_machines
            for pod in self.pods.values()
            if pod["metadata"]["labels"].get(LABEL_ROLE) == ROLE_RENDEZVOUS
            and pod["status"]["phase"] == "Running"
            and "deletionTimestamp" not in pod["metadata"]
        }
        reached = {address for address, cut in running.items() if not cut}
        for address in set(self.hosts) - reached:
            host = self.hosts.pop(address)
            if address in running:
                self.cut_hosts[address] = host
            elif host.state.round:  # an agent that has not joined yet tries again
                for pod in self.agents_alive().values():
                    self.end(pod, 1)
        self.cut_hosts = {address: host for address, host in self.cut_hosts.items() if address in running}
        for address in reached - set(self.hosts):
            instance = f"{next(self._instances):02x}"
            new = Host(instance, RendezvousState(instance, silent=()))
            self.hosts[address] = self.cut_hosts.pop(address, new)

    def agents_alive(self) -> dict[str, Stored]:
        """Return the pods whose agents run and are reached by the hosts, by address."""
        return {
            pod["status"]["podIP"]: pod
            for pod in self.nodes.values()
            if pod["status"]["phase"] == "Running"
            and "deletionTimestamp" not in pod["metadata"]
            and pod["spec"].get("nodeName") not in self.silent_machines
        }

    def _agents(self) -> None:
        """Let the present agents form a round according to the host's target."""
        alive = self.agents_alive()
        for host in self.hosts.values():
            target = host.target
            state = host.state = replace(host.state, silent=self._unheard())
            if target is None or self.mute:
                continue
            if state.closed or target.close:
                host.state = replace(state, closed=True)
                for pod in alive.values():
                    self.end(pod, 0 if pod["metadata"]["uid"] in self.finished else 1)
                continue
            if state.finished:
                continue
            if state.complete and target.end_round == (host.instance, state.round):
                self.ended.append(target.end_round)
                state = replace(state, complete=False)
            frozen = {address for address, pod in alive.items() if pod["metadata"]["uid"] in self.frozen}
            before = [address for address, _ in state.members]
            there = [address for address in sorted(alive) if address in before or address not in frozen]
            able = [address for address in there if address not in target.leavers][: target.size]
            if state.complete and before in (able, [address for address in able if address not in state.missing]):
                continue
            missing = tuple(sorted(frozen.intersection((*before, *state.missing))))
            able = [address for address in able if address not in frozen]
            members = tuple(Member(address, rank) for rank, address in enumerate(able))
            complete = len(able) >= target.minimum
            host.state = replace(
                state,
                round=state.round + 1 if complete else state.round,
                complete=complete,
                members=members,
                missing=missing,
                pace=Pace(longest_start_seconds=state.pace.longest_start_seconds),
                completed_at=self.now + self.skews.hosts if complete else state.completed_at,
            )

    def succeed(self) -> None:
        """Let every agent succeed."""
        for host in self.hosts.values():
            host.state = replace(host.state, closed=True)
            host.target = None
        for pod in self.agents_alive().values():
            self.end(pod, 0, "Completed")

    def indices(self) -> list[int]:
        """Return the sorted indices of the node pods that are live or have finished, including duplicates."""
        return sorted(int(pod["metadata"]["labels"][LABEL_NODE_INDEX]) for pod in self.nodes.values())


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


async def started(skews: Skews | None = None, **spec: Any) -> World:
    """Return a world whose job of three nodes trains."""
    world = World(skews, **spec)
    await world.settle()
    assert world.status["state"] == "Running"
    return world


def counts(world: World) -> dict[str, int]:
    """Return the restarts by cause."""
    return {cause: count for cause, count in world.status["restarts"].items() if count}


def reasons(world: World) -> list[str]:
    """Return the reasons of all events."""
    return [event["reason"] for event in world.cluster.events]
