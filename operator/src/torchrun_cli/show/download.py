"""The pod that reads outputs for a download: with the image, the credentials and the volumes of the upload."""

from collections.abc import Sequence
from typing import Any, Final

from pydantic import ValidationError

from torchrun_cli.errors import CliError
from torchrun_operator.api.names import API_VERSION, KIND, LABEL_ROLE, OUTPUT_CONTAINER_PREFIX, ROLE_OUTPUTS
from torchrun_operator.api.v1alpha1 import TorchrunJob, job_of
from torchrun_operator.render.beside import ANNOTATIONS, LABELS, POD_FIELDS, chosen, pod_security, shared_labels
from torchrun_operator.render.placement import placement
from torchrun_operator.render.transfer import Mounted, container, mounted, place, program_volume

_SECONDS: Final = 3600
"""The pod ends by itself then, so that none stays if this program is killed. A longer download gets another one."""
_RESOURCES: Final = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}}
_WAIT: Final = f"import time; time.sleep({_SECONDS})"


def download_pod(job: dict[str, Any], positions: Sequence[int]) -> tuple[dict[str, Any], list[str]]:
    """Return the pod with a container for each of these outputs, and the command that serves one in its container.

    The role of its label opens the network policies that the upload needs. It has no label with the name of the job, so
    the operator does not take it for one of its own. Raises CliError if this program does not understand the job.
    """
    try:
        known = job_of({key: value for key, value in job.items() if key != "status"})
    except ValidationError as error:
        raise CliError(
            f"this program does not understand the job: install the version of the operator ({error})"
        ) from None
    nodes, serving, containers = known.spec.template["spec"], [""], []
    volumes: dict[str, Any] = {}
    for position in positions:
        rendered, needed = _container(known, position)
        serving = rendered["command"]
        containers.append({**rendered, "command": [serving[0], "-c", _WAIT]})
        volumes |= {volume["name"]: volume for volume in needed}
    owner = {"apiVersion": API_VERSION, "kind": KIND, "name": known.metadata.name, "uid": known.metadata.uid}
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"{known.metadata.name}-download-",
            "namespace": known.metadata.namespace,
            "labels": {**shared_labels(known), **LABELS, LABEL_ROLE: ROLE_OUTPUTS},
            "annotations": dict(ANNOTATIONS),
            "ownerReferences": [owner],
        },
        "spec": {
            **chosen(nodes, (*POD_FIELDS, "automountServiceAccountToken")),
            **placement(nodes),
            **pod_security(nodes),
            "restartPolicy": "Never",
            "activeDeadlineSeconds": _SECONDS,
            "terminationGracePeriodSeconds": 1,
            "enableServiceLinks": False,
            "containers": containers,
            "volumes": [program_volume(known), *volumes.values()],
        },
    }
    return manifest, serving


def _container(job: TorchrunJob, position: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    output = job.spec.outputs[position]
    target = place(output.url, f"torchrun-output-{position}-target", read_only=True)
    mounts = [mount for each in _mounts(job, output.url) for mount in (each.mount,)]
    rendered = container(
        job,
        f"{OUTPUT_CONTAINER_PREFIX}{position}",
        "serve",
        {"url": target.url, "path": output.path},
        secret=output.secret_ref,
        mounts=(*target.mounts, *mounts),
        resources=_RESOURCES,
    )
    return rendered, [*target.volumes, *(each.volume for each in _mounts(job, output.url))]


def _mounts(job: TorchrunJob, url: str) -> list[Mounted]:
    """Return the mount of a URL that is a directory on a volume of the trainer, read-only."""
    if not url.startswith("file://"):
        return []
    found = mounted(job.spec, f"/{url.removeprefix('file://').strip('/')}", job.metadata.name)
    return [found._replace(mount={**found.mount, "readOnly": True})] if found is not None else []
