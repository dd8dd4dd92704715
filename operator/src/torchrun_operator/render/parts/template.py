"""The user's pod template: the fields that belong to the operator, and the rules on the rest."""

from collections.abc import Iterator

from torchrun_operator.api import remedies
from torchrun_operator.api.names import (
    ANNOTATION_SPEC_DIGEST,
    GROUP,
    LABEL_NODE_INDEX,
    LABEL_ROLE,
    RESERVED_PREFIX,
    ROLE_NODE,
    TERMINATION_LOG,
    TRAINER_CONTAINER,
    is_reserved_env,
    service_name,
)
from torchrun_operator.api.torchrun import reserved_options
from torchrun_operator.api.v1alpha1 import TorchrunJob, TorchrunJobSpec
from torchrun_operator.api.validation import Problem
from torchrun_operator.render.part import Part, Piece


def _node(job: TorchrunJob, index: int) -> Piece:
    return Piece(
        annotations={ANNOTATION_SPEC_DIGEST: job.spec.frozen_digest},
        labels={LABEL_ROLE: ROLE_NODE, LABEL_NODE_INDEX: str(index)},
        pod_fields={
            "restartPolicy": "Never",
            "subdomain": service_name(job.metadata.name),
        },
    )


def _problems(spec: TorchrunJobSpec) -> Iterator[Problem]:
    yield from _pod_problems(spec)
    yield from _trainer_problems(spec)


def _pod_problems(spec: TorchrunJobSpec) -> Iterator[Problem]:
    pod, metadata = spec.template.get("spec") or {}, spec.template.get("metadata") or {}
    field = "spec.template.spec"
    if pod.get("restartPolicy", "Never") != "Never":
        yield Problem(f"{field}.restartPolicy", remedies.RESTART_POLICY)
    for name in ("hostname", "hostnameOverride", "subdomain"):
        if name in pod:
            yield Problem(f"{field}.{name}", remedies.host_name(name))
    if pod.get("hostNetwork"):
        yield Problem(f"{field}.hostNetwork", remedies.HOST_NETWORK)
    if "activeDeadlineSeconds" in pod:
        yield Problem(f"{field}.activeDeadlineSeconds", remedies.POD_DEADLINE)
    for index, volume in enumerate(pod.get("volumes") or []):
        if volume.get("name", "").startswith(RESERVED_PREFIX):
            yield Problem(f"{field}.volumes[{index}].name", remedies.VOLUME_NAME)
    for kind in ("labels", "annotations"):
        if any(key.startswith(f"{GROUP}/") for key in metadata.get(kind) or {}):
            yield Problem(f"spec.template.metadata.{kind}", remedies.METADATA_KEY)


def _trainer_problems(spec: TorchrunJobSpec) -> Iterator[Problem]:
    field = "spec.template.spec.containers"
    names = [container.get("name") for container in spec.containers]
    if names.count(TRAINER_CONTAINER) != 1:
        yield Problem(field, remedies.ONE_TRAINER)
        return
    trainer, field = spec.trainer, f"{field}[{names.index(TRAINER_CONTAINER)}]"
    for name in (variable.get("name", "") for variable in trainer.get("env") or []):
        if is_reserved_env(name):
            yield Problem(f"{field}.env", f"the operator or torchrun sets {name}; {remedies.RESERVED_ENV}")
    # A static command line is for the static backend.
    for option, instead in () if spec.static else reserved_options(spec.command_of(1)):
        yield Problem(f"{field}.command", remedies.reserved_option(option, instead))
    if trainer.get("terminationMessagePath", TERMINATION_LOG) != TERMINATION_LOG:
        yield Problem(f"{field}.terminationMessagePath", remedies.TERMINATION_PATH)
    if trainer.get("restartPolicy", "Never") != "Never":
        yield Problem(f"{field}.restartPolicy", remedies.RESTART_POLICY)
    for index, container in enumerate(spec.containers):
        if not container.get("image"):
            yield Problem(f"spec.template.spec.containers[{index}].image", remedies.IMAGE)


def _rendezvous(job: TorchrunJob) -> Piece:
    return Piece(annotations={ANNOTATION_SPEC_DIGEST: job.spec.frozen_digest})


PART = Part(node=_node, rendezvous=_rendezvous, problems=_problems)
