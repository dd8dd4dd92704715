"""The rules, in CEL, on jobs with the static backend and on the lead."""

from rule import IS_RESERVED, Rule, strings

from torchrun_operator.api import remedies
from torchrun_operator.api.names import STATIC_ENV, TRAINER_CONTAINER

_STATIC = "(has(self.rendezvous) && has(self.rendezvous.backend) && self.rendezvous.backend == 'static')"
_NUMBER = "matches('^[0-9]{1,9}$')"
_RANGE = "matches('^[0-9]{1,9}:[0-9]{1,9}$')"
_OWN = f"e.name in {strings(STATIC_ENV)}"
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
        f"!self.exists(e, {IS_RESERVED})",
        f"the operator or torchrun sets one of these variables; {remedies.RESERVED_ENV}",
        reason="FieldValueForbidden",
    ),
)
