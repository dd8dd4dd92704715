"""The pod that shows TensorBoard for the snapshots of a job."""

from posixpath import join, normpath
from typing import Any

from torchrun_cli.errors import CliError, Exit
from torchrun_operator.api.names import API_VERSION, KIND, TRAINER_CONTAINER, snapshots_name

_PORT = 6006
_KEPT = ("imagePullSecrets", "nodeSelector", "runtimeClassName", "securityContext", "serviceAccountName", "tolerations")
"""Fields of the pod template that decide where a pod may run, and whether it may."""
_MOUNT = "/snapshots"
_START = 'command -v tensorboard >/dev/null && exec tensorboard "$@"; exec python3 -m tensorboard.main "$@"'


def tensorboard_pod(job: dict[str, Any], *, logdir: str = ".", image: str | None = None) -> dict[str, Any]:
    """Return the pod. Raises CliError if the job has no snapshots, or if the directory lies outside of them."""
    metadata, spec = job["metadata"], job.get("spec") or {}
    snapshots = spec.get("snapshots")
    if not snapshots:
        raise CliError(f"{metadata['name']} has no spec.snapshots, so there is no volume to show", Exit.USAGE)
    template = (spec.get("template") or {}).get("spec") or {}
    trainer: dict[str, Any] = next(
        (each for each in template.get("containers") or () if each.get("name") == TRAINER_CONTAINER), {}
    )
    owner = {"apiVersion": API_VERSION, "kind": KIND, "name": metadata["name"], "uid": metadata["uid"]}
    arguments = ["--logdir", _inside(logdir), "--port", str(_PORT), "--bind_all"]
    container: dict[str, Any] = {
        "name": "tensorboard",
        "image": image or trainer.get("image"),
        "command": ["sh", "-c", _START, "tensorboard", *arguments],
        "ports": [{"containerPort": _PORT}],
        "readinessProbe": {"tcpSocket": {"port": _PORT}, "periodSeconds": 1},
        "volumeMounts": [{"name": "snapshots", "mountPath": _MOUNT, "readOnly": True}],
        **{key: trainer[key] for key in ("securityContext", "imagePullPolicy") if key in trainer},
    }
    claim = snapshots.get("claimName") or snapshots_name(metadata["name"])
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"{metadata['name']}-tensorboard-",
            "namespace": metadata["namespace"],
            "ownerReferences": [owner],
        },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "containers": [container],
            "volumes": [{"name": "snapshots", "persistentVolumeClaim": {"claimName": claim}}],
            **{key: template[key] for key in _KEPT if key in template},
        },
    }


def _inside(logdir: str) -> str:
    found = normpath(join(_MOUNT, logdir))
    if found != _MOUNT and not found.startswith(f"{_MOUNT}/"):
        raise CliError(f"--logdir={logdir} lies outside of the snapshots: write a path relative to them", Exit.USAGE)
    return found


def pod_state(pod: dict[str, Any]) -> tuple[bool, bool, str]:
    """Return whether the pod is ready, whether it has ended, and what it waits for or how it ended."""
    status = pod.get("status") or {}
    conditions = {each.get("type"): each for each in status.get("conditions") or ()}
    container: dict[str, Any] = next(iter(status.get("containerStatuses") or ()), {})
    state = container.get("state") or {}
    words = status.get("phase") or "Pending"
    if "terminated" in state:
        words = f"exit code {state['terminated'].get('exitCode')}"
    elif "waiting" in state:
        words = " ".join(filter(None, [state["waiting"].get("reason"), state["waiting"].get("message")]))
    elif (conditions.get("PodScheduled") or {}).get("status") == "False":
        words = conditions["PodScheduled"].get("message") or "not scheduled"
    ready = (conditions.get("Ready") or {}).get("status") == "True"
    return ready, status.get("phase") in ("Failed", "Succeeded"), words
