"""A second job whose rendezvous host, which runs the user's image, is hostile to the operator."""

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from support.kubectl import Kubectl, KubectlError, Object
from support.waiting import NotInTimeError, wait_for

JOB = "hostile"
_HOST = f"{JOB}-rdzv"
_PROGRAM = Path(__file__).parent / "hostile_host.py"
_SECONDS = 20.0
_ATTEMPTS = 5
_KEPT = ("name", "labels", "annotations", "ownerReferences")


def job(image: str) -> Object:
    """Return the job. Its nodes do nothing."""
    container = {
        "name": "trainer",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "3600"],
        "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}},
    }
    pod = {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0, "containers": [container]}
    return {
        "apiVersion": "torchrun.dev/v1alpha1",
        "kind": "TorchrunJob",
        "metadata": {"name": JOB},
        "spec": {"nnodes": 1, "template": {"spec": pod}},
    }


def usurped(pod: Object, program: str) -> Object:
    """Return a rendezvous pod of the operator that runs another program, as the image of a user may."""
    metadata = {key: value for key, value in pod["metadata"].items() if key in _KEPT}
    container = {**pod["spec"]["containers"][0], "command": ["python3", "-c", program]}
    for key in ("args", "readinessProbe"):
        container.pop(key, None)
    spec = {key: value for key, value in pod["spec"].items() if key not in ("nodeName", "initContainers")}
    return {**pod, "metadata": metadata, "spec": {**spec, "containers": [container]}, "status": {}}


@dataclass
class Hostile:
    """Starts and ends the job, each time in a new namespace."""

    kubectl: Kubectl
    image: str
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def start(self) -> Callable[[], None] | None:
        """Create the job, and replace its rendezvous pod. Returns how to end it; None if that was not possible."""
        scoped = self.kubectl.within(f"{self.kubectl.namespace}-hostile-{next(self._numbers)}")
        scoped.run("create", "namespace", scoped.namespace)

        def end() -> None:
            scoped.run("delete", "namespace", scoped.namespace, "--wait=false", "--ignore-not-found")

        scoped.apply(job(self.image))
        try:
            first = wait_for("the rendezvous pod", lambda: scoped.get("pod", _HOST), _SECONDS)
        except NotInTimeError:
            end()
            return None
        replacement = json.dumps(usurped(first, _PROGRAM.read_text()))
        for _ in range(_ATTEMPTS):
            # The operator replaces a missing pod within moments: the first to create it has won.
            with suppress(KubectlError):
                scoped.run("replace", "--force", "--grace-period=0", "--filename=-", stdin=replacement)
                return end
        end()
        return None
