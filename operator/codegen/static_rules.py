"""The rules, in CEL, on jobs with the static backend and on the lead."""

from rule import Rule

from torchrun_operator.api import remedies
from torchrun_operator.api.names import RESERVED_ENV, RESERVED_ENV_PREFIXES, STATIC_ENV, TRAINER_CONTAINER

_STATIC = "(has(self.rendezvous) && has(self.rendezvous.backend) && self.rendezvous.backend == 'static')"
_NUMBER = "matches('^[0-9]{1,9}$')"
_RANGE = "matches('^[0-9]{1,9}:[0-9]{1,9}$')"


def _strings(values: tuple[str, ...]) -> str:
    return "[" + ", ".join(f"'{value}'" for value in values) + "]"


_RESERVED = " || ".join(
    [f"e.name in {_strings(RESERVED_ENV)}", *(f"e.name.startsWith('{prefix}')" for prefix in RESERVED_ENV_PREFIXES)]
)
_OWN = f"e.name in {_strings(STATIC_ENV)}"
_TRAINERS = f"self.template.spec.containers.all(c, c.name != '{TRAINER_CONTAINER}' || !has(c.env)"

STATIC_RULES: tuple[Rule, ...] = (
    Rule(
        "spec",
        f"!{_STATIC} || type(self.nnodes) == int || !self.nnodes.{_RANGE} "
        "|| int(self.nnodes.split(':')[0]) == int(self.nnodes.split(':')[1])",
        remedies.STATIC_NODES,
        field=".nnodes",
    ),
    Rule(
        "spec",
        f"!{_STATIC} || !has(self.nprocPerNode) || type(self.nprocPerNode) == int || self.nprocPerNode.{_NUMBER}",
        remedies.STATIC_PROCESSES,
        field=".nprocPerNode",
    ),
    Rule(
        "spec",
        f"!{_STATIC} || !has(self.elasticity) || !has(self.elasticity.spares) || self.elasticity.spares == 0",
        remedies.STATIC_SPARES,
        field=".elasticity.spares",
    ),
    Rule(
        "spec",
        f"!{_STATIC} || !has(self.elasticity) || !has(self.elasticity.warmStart) || !self.elasticity.warmStart",
        remedies.STATIC_WARM_START,
        field=".elasticity.warmStart",
    ),
    Rule(
        "spec",
        f"!{_STATIC} || !has(self.progressDeadlineSeconds) || self.progressDeadlineSeconds == 0",
        remedies.STATIC_PROGRESS,
        field=".progressDeadlineSeconds",
    ),
    Rule(
        "spec",
        f"!{_STATIC} || !has(self.rendezvous.template)",
        remedies.STATIC_TEMPLATE,
        field=".rendezvous.template",
        reason="FieldValueForbidden",
    ),
    Rule(
        "spec",
        f"!{_STATIC} || {_TRAINERS} || !c.env.exists(e, {_OWN}))",
        remedies.STATIC_VARIABLES,
        field=".template",
        reason="FieldValueForbidden",
    ),
    Rule(
        "spec",
        f"!{_STATIC} || !has(self.lead) || !has(self.lead.env) || !self.lead.env.exists(e, {_OWN})",
        remedies.STATIC_VARIABLES,
        field=".lead.env",
        reason="FieldValueForbidden",
    ),
    Rule(
        "spec.lead.env",
        f"!self.exists(e, {_RESERVED})",
        f"the operator or torchrun sets one of these variables; {remedies.RESERVED_ENV}",
        reason="FieldValueForbidden",
    ),
)
