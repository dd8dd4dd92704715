"""The template of the rendezvous pod: the rules on what a job may say in it."""

from collections.abc import Iterator

from torchrun_operator.api import remedies
from torchrun_operator.api.names import (
    GROUP,
    RENDEZVOUS_CONTAINER,
    RENDEZVOUS_ENV_PREFIX,
    RENDEZVOUS_RESOURCES,
)
from torchrun_operator.api.v1alpha1 import TorchrunJobSpec
from torchrun_operator.api.validation import Problem
from torchrun_operator.render.part import Part


def _problems(spec: TorchrunJobSpec) -> Iterator[Problem]:
    template, field = spec.rendezvous.template or {}, "spec.rendezvous.template"
    for kind in ("labels", "annotations"):
        if any(key.startswith(f"{GROUP}/") for key in (template.get("metadata") or {}).get(kind) or {}):
            yield Problem(f"{field}.metadata.{kind}", remedies.METADATA_KEY)
    containers = (template.get("spec") or {}).get("containers") or []
    if [container.get("name") for container in containers] not in ([], [RENDEZVOUS_CONTAINER]):
        yield Problem(f"{field}.spec.containers", remedies.ONE_RENDEZVOUS)
        return
    for container in containers:
        path, resources = f"{field}.spec.containers[0]", container.get("resources") or {}
        if any(each.get("name", "").startswith(RENDEZVOUS_ENV_PREFIX) for each in container.get("env") or []):
            yield Problem(f"{path}.env", remedies.RENDEZVOUS_ENV)
        for kind in ("requests", "limits"):
            if not set(resources.get(kind) or {}) <= set(RENDEZVOUS_RESOURCES):
                yield Problem(f"{path}.resources.{kind}", remedies.RENDEZVOUS_RESOURCES_ONLY)


PART = Part(problems=_problems)
