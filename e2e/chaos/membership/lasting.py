"""Faults of the objects, kubelets and processes around the job, each with its repair."""

import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from chaos.membership.scene import SCRATCH, SECRET, Scene, claim
from localcluster.node import Node
from localcluster.shell import ClusterError
from support.faulting import container_processes, send
from support.kubectl import KubectlError, Object
from support.waiting import wait_for

Undo = Callable[[], None]
_HELD = ["chaos.torchrun.dev/held"]
_STUCK_GRACE_SECONDS = 20
_GONE_SECONDS = 60.0


@dataclass(frozen=True)
class Lasting:
    """Applies a fault. Each method returns the repair."""

    scene: Scene

    def quota(self, pods: int) -> Undo:
        """Refuse pods beyond that number."""
        name = f"quota-{time.time_ns()}"
        spec = {"hard": {"pods": str(pods)}}
        self.scene.kubectl.apply(
            {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": spec}
        )
        return self._blocking(name, lambda: self._run("delete", "resourcequota", name))

    def secret(self) -> Undo:
        """Delete the Secret that the node pods mount."""
        self._run("delete", "secret", SECRET["metadata"]["name"], "--ignore-not-found")
        return self._blocking("secret", lambda: self.scene.kubectl.apply(SECRET))

    def claim(self) -> Undo:
        """Delete a claim that the node pods mount. Pods that run keep its volume."""
        self._run("delete", "persistentvolumeclaim", SCRATCH, "--wait=false", "--ignore-not-found")
        return self._blocking("claim", self._claim_again)

    def _claim_again(self) -> None:
        kubectl, volume = self.scene.kubectl, self.scene.volume
        found = kubectl.get("persistentvolumeclaim", SCRATCH)
        if found is not None and "deletionTimestamp" not in found["metadata"]:
            return  # The repair of an earlier fault of the kind has made it again.
        with suppress(KubectlError):  # The last pod is gone, and the claim with it.
            kubectl.patch("persistentvolumeclaim", SCRATCH, {"metadata": {"finalizers": None}})
        wait_for("the claim to be gone", lambda: kubectl.get("persistentvolumeclaim", SCRATCH) is None, _GONE_SECONDS)
        kubectl.patch("persistentvolume", volume, {"spec": {"claimRef": None}})
        kubectl.apply(claim(SCRATCH, volume))

    def stuck(self, pod: str) -> Undo:
        """Delete a node pod, which a finalizer keeps."""
        self.scene.kubectl.patch("pod", pod, {"metadata": {"finalizers": _HELD}})
        self._run("delete", "pod", pod, "--wait=false", f"--grace-period={_STUCK_GRACE_SECONDS}")
        uid = next(p["metadata"]["uid"] for p in self.scene.pods if p["metadata"]["name"] == pod)
        return lambda: self._release(pod, uid)

    def _release(self, pod: str, uid: str) -> None:
        found = self.scene.kubectl.get("pod", pod)
        if found is not None and found["metadata"]["uid"] == uid:
            self.scene.kubectl.patch("pod", pod, {"metadata": {"finalizers": None}})

    def frozen(self, pods: Iterable[Object], container: str) -> Undo | None:
        """Stop the processes of a container. None if it has none."""
        known = {pod["metadata"]["uid"]: pod for pod in pods}
        processes = {uid: container_processes(pod, container) for uid, pod in known.items()}
        if not any(processes.values()):
            return None
        for found in processes.values():
            send(found, signal.SIGSTOP)

        def undo() -> None:
            # Only those that still belong to the container: another process may have the number of an ended one.
            for uid, before in processes.items():
                send(set(before) & set(container_processes(known[uid], container)), signal.SIGCONT)

        return undo

    def silent(self, nodes: Iterable[Node]) -> Undo:
        """Stop the kubelets of Kubernetes nodes."""
        stopped = list(nodes)
        for node in stopped:
            node.silence()
            self.scene.silent.add(node.name)

        def undo() -> None:
            for node in stopped:
                with suppress(ClusterError, ProcessLookupError):  # Without power meanwhile: it starts with a new one.
                    node.unsilence()
                self.scene.silent.discard(node.name)

        return undo

    def _blocking(self, name: str, undo: Undo) -> Undo:
        self.scene.blocking.add(name)

        def done() -> None:
            undo()
            self.scene.blocking.discard(name)

        return done

    def _run(self, *arguments: str) -> None:
        self.scene.kubectl.run(*arguments)
