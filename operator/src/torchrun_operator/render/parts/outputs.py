"""Outputs: the rules. A pod of its own uploads them (`render.outputs_pod`), so node pods get nothing."""

from collections.abc import Iterator
from typing import Final

from torchrun_operator.api import remedies
from torchrun_operator.api.names import OUTPUT_SCHEMES
from torchrun_operator.api.v1alpha1 import Output, TorchrunJobSpec, When
from torchrun_operator.api.validation import Problem
from torchrun_operator.render.part import Part
from torchrun_operator.render.paths import is_clean, is_inside
from torchrun_operator.render.transfer import Mounted, mounted, scheme_of

_PASSING: Final = (
    "configMap", "downwardAPI", "emptyDir", "ephemeral", "gitRepo", "hostPath", "image", "projected", "secret",
)  # fmt: skip
"""Kinds of volumes that end with their pod, stay on one Kubernetes node, or cannot be written."""


def problems(spec: TorchrunJobSpec) -> Iterator[Problem]:
    """Yield what is wrong with the outputs."""
    for position, each in enumerate(spec.outputs):
        field = f"spec.outputs[{position}]"
        yield from _path_problems(spec, each, field)
        yield from _url_problems(spec, each, field)
        if each.seconds is not None and each.when is not When.PERIODIC:
            yield Problem(f"{field}.seconds", remedies.OUTPUT_SECONDS)
        if each.url.rstrip("/") in {other.url.rstrip("/") for other in spec.outputs[:position]}:
            yield Problem(f"{field}.url", f"two outputs have the url {each.url}; change one of them")


def _path_problems(spec: TorchrunJobSpec, each: Output, field: str) -> Iterator[Problem]:
    if not is_clean(each.path):
        yield Problem(f"{field}.path", remedies.OUTPUT_PATH)
        return
    there = mounted(spec, each.path)
    if there is None:
        yield Problem(f"{field}.path", remedies.OUTPUT_NOT_MOUNTED)
    elif not _lasts(there):
        yield Problem(f"{field}.path", remedies.OUTPUT_PASSES)


def _url_problems(spec: TorchrunJobSpec, each: Output, field: str) -> Iterator[Problem]:
    scheme, rest = scheme_of(each.url), each.url.partition("://")[2]
    if scheme not in OUTPUT_SCHEMES or not rest.strip("/"):
        yield Problem(f"{field}.url", remedies.OUTPUT_URL)
    elif scheme == "file":
        target = f"/{rest.strip('/')}"
        there = mounted(spec, target)
        if there is None or not _lasts(there):
            yield Problem(f"{field}.url", remedies.OUTPUT_PASSES)
        elif target == each.path or is_inside(target, each.path):
            yield Problem(f"{field}.url", remedies.OUTPUT_IN_ITSELF)


def _lasts(there: Mounted) -> bool:
    """Whether the pod that uploads can mount the same files after the nodes have ended."""
    known = any(key != "name" for key in there.volume)
    return known and not any(kind in there.volume for kind in _PASSING) and "subPathExpr" not in there.mount


PART = Part(problems=problems)
