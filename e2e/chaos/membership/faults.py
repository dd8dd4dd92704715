"""Applies and repairs each kind of fault."""

import os
import signal
import time
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush

from chaos.membership.hostile import Hostile
from chaos.membership.lasting import Lasting, Undo
from chaos.membership.plan import OF_WORKERS, Kind, Planned
from chaos.membership.records import Fault, Sample
from chaos.membership.scene import JOB, SIDECAR, Scene, pod_of
from localcluster import cluster
from localcluster.node import Node
from localcluster.paths import Layout
from localcluster.shell import ClusterError
from support import chart
from support.faulting import container_processes, evict, number_inside, send
from support.kubectl import KubectlError, Object
from support.machines import changed
from support.progress import TRAINER

_HOST_CONTAINER, _OPERATOR_CONTAINER = "rendezvous", "operator"
_AT_ONCE = ("--force", "--grace-period=0", "--wait=false")
_MOST_MACHINES_AWAY = 2
"""Of three Kubernetes nodes, so that pods can always run on one."""
_FAILING_ROUNDS = 2
_FAILING_SECONDS = 20.0
"""Until the failing rounds are over, with the pauses before them."""
_UNREADY_SECONDS = 22.0
"""After this time, the API server reports a silent kubelet."""
_FROZEN_SECONDS = 20.0
_STUCK_SECONDS = 45.0


@dataclass
class Done:
    """What a fault did."""

    target: str = ""
    hits: tuple[str, ...] = ()
    lasts: float = 0.0
    """Seconds until the repair."""
    failures: int = 0
    """How often it makes a round of workers fail."""


@dataclass
class Faults:
    """Applies faults to a job, and repairs them when they are due."""

    scene: Scene
    machines: list[str]
    """The Kubernetes nodes that may have faults."""
    _undo: list[tuple[float, int, str, Undo]] = field(default_factory=list)
    """When it is due, a number that orders those of the same time, the Kubernetes node or nothing, and the repair."""
    _order: int = 0

    def __post_init__(self) -> None:
        self.lasting = Lasting(self.scene)
        self.hostile = Hostile(self.scene.kubectl, self.scene.image)

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
            failures=done.failures,
        )

    def next_undo(self) -> float | None:
        """Return when the next repair is due."""
        return self._undo[0][0] if self._undo else None

    def put_right(self, until: float) -> None:
        """Repair what is due until then."""
        while self._undo and self._undo[0][0] <= until:
            heappop(self._undo)[-1]()

    def _do(self, planned: Planned, sample: Sample) -> Done | None:
        kind = planned.kind
        if kind is Kind.SCALE:
            return self._scale(planned.nodes)
        if kind is Kind.CORDON:
            return self._cordon(planned)
        if kind in (Kind.STOP_MACHINE, Kind.PARTITION):
            return self._cut(planned)
        if kind in (Kind.SILENT_KUBELET, Kind.SILENT_HALF):
            return self._silent(planned)
        if kind in (Kind.KILL_HOST, Kind.DELETE_HOST, Kind.FREEZE_HOST):
            return self._host(planned, sample)
        if kind in (Kind.KILL_OPERATOR, Kind.DELETE_OPERATOR, Kind.FREEZE_OPERATOR):
            return self._operator(planned)
        if kind in (Kind.QUOTA, Kind.DELETE_SECRET, Kind.DELETE_CLAIM, Kind.HOSTILE):
            return self._around(planned)
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
            and pod_of(pod).machine not in sample.cut | sample.silent
        ]
        if not candidates:
            return None
        pod = candidates[int(planned.victim * len(candidates))]
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        if planned.kind in OF_WORKERS or planned.kind is Kind.FAIL_AT_ONCE:
            return self._worker(planned.kind, pod)
        if planned.kind is Kind.KILL_SIDECAR:
            processes = container_processes(pod, SIDECAR)
            send(processes)
            return Done(name) if processes else None
        if planned.kind is Kind.STUCK:
            seconds = _STUCK_SECONDS + planned.seconds
            self._later(seconds, "", self.lasting.stuck(name))
            return Done(name, (uid,), seconds)
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
        if kind is Kind.FAIL_AT_ONCE:
            self.scene.fail_at_once(_FAILING_ROUNDS)
            send(workers)
            return Done(name, lasts=_FAILING_SECONDS, failures=1 + _FAILING_ROUNDS)
        send(workers, signal.SIGTERM if kind is Kind.TERMINATE_WORKER else signal.SIGKILL)
        return Done(name)

    def _host(self, planned: Planned, sample: Sample) -> Done | None:
        host = sample.host
        if host is None or host.terminating or host.machine in sample.cut | sample.silent:
            return None
        if planned.kind is Kind.FREEZE_HOST:
            return self._frozen(planned, [p for p in self.scene.pods if p["metadata"]["uid"] == host.uid])
        if planned.kind is Kind.DELETE_HOST:
            self.scene.kubectl.run("delete", "pod", host.name, *_AT_ONCE)
            return Done(host.name)
        pod = next(pod for pod in self.scene.pods if pod["metadata"]["uid"] == host.uid)
        processes = container_processes(pod, _HOST_CONTAINER)
        send(processes)
        return Done(host.name) if processes else None

    def _frozen(self, planned: Planned, pods: list[Object]) -> Done | None:
        container = _HOST_CONTAINER if planned.kind is Kind.FREEZE_HOST else _OPERATOR_CONTAINER
        undo = self.lasting.frozen(pods, container)
        if undo is None:
            return None
        seconds = min(planned.seconds, _FROZEN_SECONDS)
        self._later(seconds, "", undo)
        return Done(f"for {seconds:.0f} s", lasts=seconds)

    def _operator(self, planned: Planned) -> Done | None:
        kubectl = self.scene.kubectl.within(chart.NAMESPACE)
        pods = kubectl.list("pods", f"app.kubernetes.io/instance={chart.RELEASE}")
        if not pods:
            return None
        if planned.kind is Kind.FREEZE_OPERATOR:
            return self._frozen(planned, pods)
        for pod in pods:
            if planned.kind is Kind.DELETE_OPERATOR:
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

    def _around(self, planned: Planned) -> Done | None:
        """Apply a fault of what is around the job."""
        target, undo = "", None
        if planned.kind is Kind.QUOTA:
            target, undo = f"of {1 + planned.nodes} pods", self.lasting.quota(1 + planned.nodes)
        elif planned.kind is Kind.DELETE_SECRET:
            undo = self.lasting.secret()
        elif planned.kind is Kind.DELETE_CLAIM:
            undo = self.lasting.claim()
        else:
            undo = self.hostile.start()
        if undo is None:
            return None
        self._later(planned.seconds, "", undo)
        return Done(f"{target} for {planned.seconds:.0f} s".strip(), lasts=planned.seconds)

    def _silent(self, planned: Planned) -> Done:
        names = [self._machine(planned)]
        if planned.kind is Kind.SILENT_HALF:
            names.append(next(name for name in self.machines if name not in {*names, *self._away()}))
        nodes = [cluster.find_node(Layout.of(os.environ), name) for name in names]
        undo = self.lasting.silent(nodes)
        seconds = _UNREADY_SECONDS + planned.seconds
        if planned.kind is Kind.SILENT_KUBELET:
            at = min(seconds - 1, _UNREADY_SECONDS + planned.victim * planned.seconds)
            restart = replace(planned, kind=Kind.KILL_OPERATOR)
            self._later(at, names[0], lambda: self._restarted(restart))
        self._later(seconds, names[0], undo)
        return Done(f"{' and '.join(names)} for {seconds:.0f} s", lasts=seconds)

    def _restarted(self, planned: Planned) -> None:
        self._operator(planned)

    def _away(self) -> set[str]:
        """Return the Kubernetes nodes that have a fault."""
        return {machine for _, _, machine, _ in self._undo if machine} | self.scene.silent | self.scene.cut

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
        """Return a Kubernetes node without a fault, so that one more is left. Repair the oldest faults before."""
        most = _MOST_MACHINES_AWAY - (planned.kind is Kind.SILENT_HALF)
        while len(self._away()) >= most:
            self.put_right(self._undo[0][0])
        candidates = [machine for machine in self.machines if machine not in self._away()]
        return candidates[int(planned.victim * len(candidates))]

    def _later(self, seconds: float, machine: str, undo: Undo) -> None:
        self._order += 1
        heappush(self._undo, (time.time() + seconds, self._order, machine, undo))
