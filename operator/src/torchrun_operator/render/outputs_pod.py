"""The pod that uploads the outputs: one container each, so that each has its own credentials."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from torchrun_operator.api.names import (
    ANNOTATION_OUTPUTS_DIGEST,
    LABEL_ROLE,
    OUTPUT_CONTAINER_PREFIX,
    ROLE_OUTPUTS,
    outputs_name,
)
from torchrun_operator.api.v1alpha1 import Output, TorchrunJob
from torchrun_operator.render.beside import (
    ANNOTATIONS,
    LABELS,
    POD_FIELDS,
    chosen,
    pod_security,
    shared_labels,
)
from torchrun_operator.render.limits import Need, fitting, written
from torchrun_operator.render.metadata import owned_metadata
from torchrun_operator.render.namespace import NO_RULES, NamespaceRules
from torchrun_operator.render.part import Manifest
from torchrun_operator.render.placement import placement
from torchrun_operator.render.transfer import Mounted, container, mounted, place, program_volume

_MEBI: Final = Decimal(1024**2)
_NEEDS: Final = {
    "cpu": Need(Decimal("0.1"), Decimal(2), Decimal("0.5"), Decimal("0.001")),
    "memory": Need(256 * _MEBI, 1024 * _MEBI, 512 * _MEBI, _MEBI),
}
_PAUSE_SECONDS: Final = 300


def outputs_pod(
    job: TorchrunJob, positions: Sequence[int], digest: str, *, periodic: bool, rules: NamespaceRules = NO_RULES
) -> Manifest:
    """Return the pod that uploads the outputs at these positions: once, or again and again while the job trains."""
    nodes = job.spec.template["spec"]
    volumes: dict[str, Manifest] = {}
    containers = []
    for position in positions:
        rendered, needed = _container(job, position, periodic=periodic, rules=rules)
        containers.append(rendered)
        volumes |= {volume["name"]: volume for volume in needed}
    spec = {
        **chosen(nodes, (*POD_FIELDS, "automountServiceAccountToken")),
        **placement(nodes),
        **pod_security(nodes),
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 5,
        "enableServiceLinks": False,
        "containers": containers,
        "volumes": [program_volume(job), *volumes.values()],
    }
    metadata = owned_metadata(
        job,
        outputs_name(job.metadata.name),
        labels={LABEL_ROLE: ROLE_OUTPUTS},
        annotations={ANNOTATION_OUTPUTS_DIGEST: digest},
        given={"labels": {**shared_labels(job), **LABELS}, "annotations": ANNOTATIONS},
    )
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _container(
    job: TorchrunJob, position: int, *, periodic: bool, rules: NamespaceRules
) -> tuple[Manifest, list[Manifest]]:
    """Return the container of one output, and the volumes that it mounts."""
    output = job.spec.outputs[position]
    target = place(output.url, f"torchrun-output-{position}-target")
    mounts = {each.mount["mountPath"]: each for each in _mounts(job, output)}
    task = {
        "url": target.url,
        "path": output.path,
        "include": [*output.include],
        "exclude": [*output.exclude],
        **({"everySeconds": output.seconds or _PAUSE_SECONDS} if periodic else {}),
    }
    rendered = container(
        job,
        f"{OUTPUT_CONTAINER_PREFIX}{position}",
        "upload",
        task,
        secret=output.secret_ref,
        mounts=(*(each.mount for each in mounts.values()), *target.mounts),
        resources=_resources(rules),
    )
    return rendered, [*(each.volume for each in mounts.values()), *target.volumes]


def _mounts(job: TorchrunJob, output: Output) -> list[Mounted]:
    """Return the mounts of an output: what is read cannot be written, unless the URL is a directory there too."""
    source = mounted(job.spec, output.path, job.metadata.name)
    found = [source._replace(mount={**source.mount, "readOnly": True})] if source is not None else []
    if output.url.startswith("file://"):
        target = mounted(job.spec, f"/{output.url.removeprefix('file://').strip('/')}", job.metadata.name)
        found += [target] if target is not None else []
    return found


def _resources(rules: NamespaceRules) -> Manifest:
    requests, limits = {}, {}
    for name, need in _NEEDS.items():
        request, limit = fitting(need, name, rules.limit_ranges)
        requests[name], limits[name] = written(request, need.step), written(limit, need.step)
    return {"requests": requests, "limits": limits}
