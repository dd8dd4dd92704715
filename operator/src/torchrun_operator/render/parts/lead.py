"""The lead: the rules on what a job may change in node 0."""

from collections.abc import Iterator

from torchrun_operator.api import remedies
from torchrun_operator.api.names import is_reserved_env
from torchrun_operator.api.v1alpha1 import TorchrunJobSpec
from torchrun_operator.api.validation import Problem
from torchrun_operator.render.part import Part


def _problems(spec: TorchrunJobSpec) -> Iterator[Problem]:
    for name in (variable.get("name", "") for variable in (spec.lead.env if spec.lead is not None else ())):
        if is_reserved_env(name):
            yield Problem("spec.lead.env", f"the operator or torchrun sets {name}; {remedies.RESERVED_ENV}")


PART = Part(problems=_problems)
