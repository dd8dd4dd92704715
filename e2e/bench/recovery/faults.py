"""The faults: what happens to a training job, and how to repair the cluster."""

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from bench.recovery.systems import MAX, MIN
from bench.recovery.watched import Victim, Watched
from localcluster import cluster
from localcluster.node import Node
from localcluster.paths import Layout
from support import chart
from support.faulting import container_processes, evict, send
from support.kubectl import Kubectl, Object, Stream
from support.machines import changed
from support.waiting import wait_for

_OPERATOR = f"deployment/{chart.RELEASE}"
_SECONDS = 120.0


@dataclass
class Scene:
    """The context of a fault: the job, its cluster, and what to undo afterwards."""

    kubectl: Kubectl
    """In the namespace of the job."""
    job: Watched
    undo: ExitStack
    not_ready: Callable[[], float | None] = lambda: None
    """When the API server first reported the Kubernetes node as not ready, if it has."""


Act = Callable[[], None]


@dataclass(frozen=True)
class Fault:
    """One kind of fault."""

    name: str
    title: str
    prepare: Callable[[Scene], Act]
    """Choose the victim. The returned function causes the fault at once."""
    before: int = MAX
    """Number of nodes that train before the fault."""
    after: int = MAX
    """Number of nodes that should train after it."""
    fresh: bool = False
    """Whether the job is created by it, instead of training before it."""
    survivable: bool = False
    """Whether workers may train on. It then ends once the store of the rendezvous has been back for a while."""


def _killing(scene: Scene, victim: Victim, container: str) -> Act:
    """Kill all processes of a container from outside, without grace and without the API server."""
    pod = scene.kubectl.get("pod", victim.pod)
    processes = container_processes(pod, container) if pod else []
    if not processes:
        raise LookupError(f"the container {container} of {victim.pod} has no process")
    return lambda: send(processes)


def _start(scene: Scene) -> Act:
    return scene.job.start


def _kill_worker(scene: Scene) -> Act:
    return _killing(scene, scene.job.worker(), scene.job.container)


def _kill_rank_zero(scene: Scene) -> Act:
    return _killing(scene, scene.job.rank_zero(), scene.job.container)


def _kill_store(scene: Scene) -> Act:
    return _killing(scene, *scene.job.store())


def _terminate(scene: Scene) -> Act:
    victim = scene.job.worker()
    return lambda: _run(scene, "delete", "pod", victim.pod, "--wait=false")


def _delete(scene: Scene) -> Act:
    victim = scene.job.worker()
    return lambda: _run(scene, "delete", "pod", victim.pod, "--force", "--grace-period=0", "--wait=false")


def _drain(scene: Scene) -> Act:
    victim = scene.job.worker()

    def act() -> None:
        scene.undo.callback(_run, scene, "uncordon", victim.machine)
        scene.kubectl.run("cordon", victim.machine)
        evict(scene.kubectl, victim.pod)

    return act


def _stop_machine(scene: Scene) -> Act:
    node = _machine(scene, scene.job.worker())

    def act() -> None:
        scene.undo.callback(changed, node, lambda: cluster.start_node(node))
        changed(node, node.stop)

    return act


def _partition(scene: Scene) -> Act:
    node = _machine(scene, scene.job.worker())

    def act() -> None:
        scene.undo.callback(changed, node, node.heal)
        changed(node, node.partition)

    return act


def _machine(scene: Scene, victim: Victim) -> Node:
    """Return the Kubernetes node of a victim, and record from now on when it is not ready."""
    seen: list[float] = []

    def noted(found: Object) -> None:
        ready = [c["status"] for c in found["status"].get("conditions") or [] if c["type"] == "Ready"]
        if ready != ["True"]:
            seen.append(time.time())

    stream: Stream = scene.kubectl.watch("nodes", f"kubernetes.io/hostname={victim.machine}", noted)
    ready = ("wait", "--for=condition=Ready", f"node/{victim.machine}", f"--timeout={_SECONDS:.0f}s")
    scene.undo.callback(_run, scene, *ready)
    scene.undo.callback(stream.stop)
    scene.not_ready = lambda: seen[0] if seen else None
    return cluster.find_node(Layout.of(os.environ), victim.machine)


def _scale(nodes: int) -> Callable[[Scene], Act]:
    return lambda scene: lambda: scene.job.scale(nodes)


def _kill_worker_operator_away(scene: Scene) -> Act:
    operator = scene.kubectl.within(chart.NAMESPACE)
    scene.undo.callback(_back, operator)
    operator.run("scale", _OPERATOR, "--replicas=0")
    selector = f"app.kubernetes.io/instance={chart.RELEASE}"
    wait_for("the operator to end", lambda: not operator.list("pods", selector), _SECONDS)
    return _kill_worker(scene)


def _back(operator: Kubectl) -> None:
    operator.run("scale", _OPERATOR, "--replicas=1")
    operator.run("rollout", "status", _OPERATOR, f"--timeout={_SECONDS:.0f}s")


def _run(scene: Scene, *arguments: str) -> None:
    scene.kubectl.run(*arguments)


FAULTS = (
    Fault("start", f"no fault: a job of {MAX} nodes is created", _start, fresh=True),
    Fault("kill-worker", "all processes of a node pod killed (SIGKILL), not of rank 0", _kill_worker),
    Fault("kill-rank-0", "all processes of the pod of rank 0 killed", _kill_rank_zero),
    Fault("delete", "a node pod deleted without grace", _delete),
    Fault("terminate", "a node pod deleted with grace (SIGTERM)", _terminate),
    Fault("drain", "a Kubernetes node drained: cordon and eviction", _drain),
    Fault("scale-down", f"scaled from {MAX} to {MIN} nodes", _scale(MIN), after=MIN),
    Fault("scale-up", f"scaled from {MIN} to {MAX} nodes", _scale(MAX), before=MIN),
    Fault("stop-machine", "a Kubernetes node loses power", _stop_machine),
    Fault("partition", "a Kubernetes node loses its network, without a reset", _partition),
    Fault("kill-store", "torchrun's store killed", _kill_store, survivable=True),
    Fault(
        "kill-worker-operator-away",
        "a node pod killed while the operator is scaled to 0",
        _kill_worker_operator_away,
        after=MIN,
    ),
)
