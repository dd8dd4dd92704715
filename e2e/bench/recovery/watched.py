"""A running job: the logs of its pods, and their roles."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.recovery.lines import Line, Step, parse, steps_of, trained_for
from bench.recovery.systems import JOB_LABEL, System
from support.faulting import container_processes, number_inside, proportional_mib
from support.kubectl import Kubectl, Object
from support.podlogs import PodLogs

_EVERY_SECONDS = 0.2


@dataclass(frozen=True)
class Victim:
    """The pod that a fault hits, and its machine."""

    pod: str
    machine: str


class Watched:
    """A job of one of the systems, from its creation to its deletion."""

    def __init__(self, kubectl: Kubectl, system: System, name: str, nodes: int) -> None:
        self.name = name
        self.nodes = nodes
        """The last requested size."""
        self.container = system.container
        self._kubectl = kubectl
        self._system = system
        self._lock = threading.Lock()
        self._lines: set[Line] = set()
        self._logs = PodLogs(kubectl, self._selector, system.container, self._wrote)

    @property
    def _selector(self) -> str:
        return f"{JOB_LABEL}={self.name}"

    def start(self) -> None:
        """Create the job."""
        self._system.create(self.name, self.nodes)

    def close(self) -> None:
        """Delete the job and all its pods at once."""
        self._logs.stop()
        self._system.delete(self.name)
        pods = ("delete", "pods", f"--selector={self._selector}", "--force", "--grace-period=0")
        self._kubectl.run(*pods, "--ignore-not-found")

    def lines(self) -> list[Line]:
        """Return the lines so far, in no order."""
        with self._lock:
            return list(self._lines)

    def scale(self, nodes: int) -> None:
        """Scale the job."""
        self._system.scale(self.name, nodes)
        self.nodes = nodes

    def wait(self, wanted: Callable[[list[Line]], bool], until: float) -> bool:
        """Wait until the lines match, at most until a moment. Returns whether they match."""
        while not wanted(self.lines()):
            if time.time() >= until:
                return False
            time.sleep(_EVERY_SECONDS)
        return True

    def trains(self, world: int, seconds: float, until: float) -> bool:
        """Wait until that many workers have trained for a while, at most until a moment. Returns whether they have."""
        return self.wait(lambda lines: trained_for(lines, world, time.time()) >= seconds, until)

    def pods(self) -> list[Object]:
        """Return the pods that train or should train."""
        return self._kubectl.list("pods", self._selector)

    def is_whole(self) -> bool:
        """Whether all pods run, and no other pod is left."""
        spares = self._system.spares(self.name)
        pods = self.pods()
        members = [pod for pod in pods if pod["metadata"]["name"] not in spares]
        return len(members) == self.nodes and all(
            not pod["metadata"].get("deletionTimestamp") and pod["status"].get("phase") == "Running" for pod in pods
        )

    def is_worn(self) -> bool:
        """Whether a container restarted in place: the kubelet waits longer before each further restart."""
        store = self._kubectl.get("pod", self._system.store_home(self.name)[0])
        pods = [*self.pods(), *([store] if store else [])]
        statuses = [status for pod in pods for status in pod["status"].get("containerStatuses") or []]
        return any(status["restartCount"] for status in statuses)

    def memory(self) -> dict[str, float]:
        """Return the memory of a node in MiB: the proportional set sizes of all its processes, and of the first."""
        pod = self._kubectl.get("pod", self.worker().pod)
        processes = container_processes(pod, self.container) if pod else []
        sizes = {number_inside(process): proportional_mib([process]) for process in processes}
        return {"node_mib": round(sum(sizes.values())), "first_process_mib": round(sizes.get(1, 0.0))}

    def rank_zero(self) -> Victim:
        """Return the pod of rank 0, which logs the steps."""
        last = self.last_step()
        return next(victim for victim in self._victims() if victim.pod == last.pod)

    def store(self) -> tuple[Victim, str]:
        """Return the pod of torchrun's store, and its container."""
        name, container = self._system.store_home(self.name)
        pod = self._kubectl.get("pod", name)
        if pod is None:
            raise LookupError(f"the pod {name} of torchrun's store does not exist")
        return _victim(pod), container

    def serving(self) -> str:
        """Return the identity of the container of torchrun's store; empty while it is not ready."""
        name, container = self._system.store_home(self.name)
        pod = self._kubectl.get("pod", name) or {"status": {}}
        statuses = pod["status"].get("containerStatuses") or []
        return next((s["containerID"] for s in statuses if s["name"] == container and s["ready"]), "")

    def worker(self) -> Victim:
        """Return a pod that trains, without rank 0 and the store, and not on their Kubernetes nodes."""
        spared = {self.rank_zero().machine, self.store()[0].machine}
        spares = self._system.spares(self.name)
        candidates = [v for v in self._victims() if v.machine not in spared and v.pod not in spares]
        return max(candidates, key=lambda victim: victim.pod)

    def last_step(self) -> Step:
        """Return the latest step."""
        return steps_of(self.lines())[-1]

    def _victims(self) -> list[Victim]:
        return [_victim(pod) for pod in self.pods() if pod["spec"].get("nodeName")]

    def _wrote(self, pod: str, _: str, text: str) -> None:
        line = parse(text, pod)
        if line is not None:
            with self._lock:
                self._lines.add(line)


def _victim(pod: Object) -> Victim:
    return Victim(pod["metadata"]["name"], pod["spec"]["nodeName"])
