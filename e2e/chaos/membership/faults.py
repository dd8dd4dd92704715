"""Applies and repairs each kind of fault."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from chaos.membership.plan import OF_WORKERS, Kind, Planned
from chaos.membership.records import Fault, Sample
from chaos.membership.scene import JOB, Scene, pod_of
from localcluster import cluster
from localcluster.node import Node
from localcluster.paths import Layout
from localcluster.shell import ClusterError
from support import chart
from support.faulting import container_processes, evict, number_inside, send
from support.kubectl import KubectlError, Object
from support.machines import changed
from support.progress import TRAINER

_HOST_CONTAINER = "rendezvous"
_AT_ONCE = ("--force", "--grace-period=0", "--wait=false")
_MOST_MACHINES_AWAY = 2
"""Of three Kubernetes nodes, so that pods can always run on one."""


@dataclass
class Done:
    """What a fault did."""

    target: str = ""
    hits: tuple[str, ...] = ()
    lasts: float = 0.0
    """Seconds until the repair."""


@dataclass
class Faults:
    """Applies faults to a job, and repairs them when they are due."""

    scene: Scene
    machines: list[str]
    """The Kubernetes nodes that may have faults."""
    _undo: list[tuple[float, str, Callable[[], None]]] = field(default_factory=list)

    def act(self, planned: Planned, number: int, group: int) -> Fault | None:
        """Apply the fault. Returns None if there was no victim."""
        sample = self.scene.look()
        before = self.scene.wanted
        at = time.time()
        try:
            done = self._do(planned, sample)
        except (KubectlError, ClusterError) as error:
            print(f"{planned.kind} was not possible: {error}", flush=True)
            return None
        if done is None:
            return None
        hits = frozenset(done.hits)
        return Fault(
            number=number,
            kind=planned.kind,
            time=at,
            until=time.time() + done.lasts,
            target=done.target,
            group=group,
            hits=done.hits,
            recorded=tuple(sorted(hits & sample.recorded)),
            before=before,
            after=self.scene.wanted,
        )

    def next_undo(self) -> float | None:
        """Return when the next repair is due."""
        return self._undo[0][0] if self._undo else None

    def put_right(self, until: float) -> None:
        """Repair what is due until then."""
        while self._undo and self._undo[0][0] <= until:
            heappop(self._undo)[2]()

    def _do(self, planned: Planned, sample: Sample) -> Done | None:
        kind = planned.kind
        if kind is Kind.SCALE:
            return self._scale(planned.nodes)
        if kind is Kind.CORDON:
            return self._cordon(planned)
        if kind in (Kind.STOP_MACHINE, Kind.PARTITION):
            return self._cut(planned)
        if kind in (Kind.KILL_HOST, Kind.DELETE_HOST):
            return self._host(kind, sample)
        if kind in (Kind.KILL_OPERATOR, Kind.DELETE_OPERATOR):
            return self._operator(kind)
        return self._node(planned, sample)

    def _scale(self, nodes: int) -> Done:
        self.scene.kubectl.run("scale", "torchrunjob", JOB, f"--replicas={nodes}")
        before, self.scene.wanted = self.scene.wanted, nodes
        return Done(f"{before} to {nodes}")

    def _node(self, planned: Planned, sample: Sample) -> Done | None:
        candidates = [
            pod
            for pod in self.scene.pods
            if pod["status"].get("phase") == "Running"
            and not pod["metadata"].get("deletionTimestamp")
            and pod_of(pod).index is not None
            and pod_of(pod).machine not in sample.cut
        ]
        if not candidates:
            return None
        pod = candidates[int(planned.victim * len(candidates))]
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        if planned.kind in OF_WORKERS:
            return self._worker(planned.kind, pod)
        if planned.kind is Kind.KILL_NODE:
            send(container_processes(pod, TRAINER))
        elif planned.kind is Kind.EVICT:
            evict(self.scene.kubectl, name)
        else:
            how = _AT_ONCE if planned.kind is Kind.DELETE_NOW else ("--wait=false",)
            self.scene.kubectl.run("delete", "pod", name, *how)
        return Done(name, (uid,))

    def _worker(self, kind: Kind, pod: Object) -> Done | None:
        name = pod["metadata"]["name"]
        started = [start for start in self.scene.journal.starts if start.pod == name]
        processes = container_processes(pod, TRAINER)
        workers = [p for p in processes if started and number_inside(p) == started[-1].process]
        if not workers:
            return None
        send(workers, signal.SIGTERM if kind is Kind.TERMINATE_WORKER else signal.SIGKILL)
        return Done(name)

    def _host(self, kind: Kind, sample: Sample) -> Done | None:
        host = sample.host
        if host is None or host.terminating or host.machine in sample.cut:
            return None
        if kind is Kind.DELETE_HOST:
            self.scene.kubectl.run("delete", "pod", host.name, *_AT_ONCE)
            return Done(host.name)
        pod = next(pod for pod in self.scene.pods if pod["metadata"]["uid"] == host.uid)
        processes = container_processes(pod, _HOST_CONTAINER)
        send(processes)
        return Done(host.name) if processes else None

    def _operator(self, kind: Kind) -> Done | None:
        kubectl = self.scene.kubectl.within(chart.NAMESPACE)
        pods = kubectl.list("pods", f"app.kubernetes.io/instance={chart.RELEASE}")
        if not pods:
            return None
        for pod in pods:
            if kind is Kind.DELETE_OPERATOR:
                kubectl.run("delete", "pod", pod["metadata"]["name"], *_AT_ONCE)
            else:
                for container in pod["spec"]["containers"]:
                    send(container_processes(pod, container["name"]))
        return Done()

    def _cordon(self, planned: Planned) -> Done:
        machine = self._machine(planned)
        self.scene.kubectl.run("cordon", machine)
        self._later(planned.seconds, machine, lambda: self._ran("uncordon", machine))
        return Done(machine, lasts=planned.seconds)

    def _ran(self, *arguments: str) -> None:
        self.scene.kubectl.run(*arguments)

    def _cut(self, planned: Planned) -> Done:
        machine = self._machine(planned)
        node = cluster.find_node(Layout.of(os.environ), machine)
        stop = planned.kind is Kind.STOP_MACHINE
        changed(node, node.stop if stop else node.partition)
        self.scene.cut.add(machine)
        self._later(planned.seconds, machine, lambda: self._mended(node, stopped=stop))
        on_it = tuple(
            pod.uid for pod in map(pod_of, self.scene.pods) if pod.machine == machine and pod.index is not None
        )
        return Done(f"{machine} for {planned.seconds:.0f} s", on_it, planned.seconds)

    def _mended(self, node: Node, *, stopped: bool) -> None:
        changed(node, (lambda: cluster.start_node(node)) if stopped else node.heal)
        self.scene.cut.discard(node.name)

    def _machine(self, planned: Planned) -> str:
        """Return a Kubernetes node without a fault. If too many have one, repair the first of them before."""
        while len(self._undo) >= _MOST_MACHINES_AWAY:
            self.put_right(self._undo[0][0])
        away = {machine for _, machine, _ in self._undo}
        candidates = [machine for machine in self.machines if machine not in away]
        return candidates[int(planned.victim * len(candidates))]

    def _later(self, seconds: float, machine: str, undo: Callable[[], None]) -> None:
        heappush(self._undo, (time.time() + seconds, machine, undo))
