"""The lead: the rules on what a job may change in node 0."""

from collections.abc import Iterator

from torchrun_operator.api import remedies
from torchrun_operator.api.names import is_reserved_env
from torchrun_operator.api.torchrun import reserved_options
from torchrun_operator.api.v1alpha1 import TorchrunJobSpec
from torchrun_operator.api.validation import Problem
from torchrun_operator.render.part import Part


def _problems(spec: TorchrunJobSpec) -> Iterator[Problem]:
    if spec.lead is None:
        return
    if not spec.static and spec.command_of(0) != spec.command_of(1):
        field = "spec.lead.args" if spec.lead.command is None else "spec.lead.command"
        for option, instead in reserved_options(spec.command_of(0)):
            yield Problem(field, remedies.reserved_option(option, instead))
    for name in (variable.get("name", "") for variable in spec.lead.env):
        if is_reserved_env(name):
            yield Problem("spec.lead.env", f"the operator or torchrun sets {name}; {remedies.RESERVED_ENV}")


PART = Part(problems=_problems)
