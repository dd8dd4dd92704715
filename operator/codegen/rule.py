"""A validation rule of a TorchrunJob, in CEL, as the CRD stores it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torchrun_operator.api.names import RESERVED_ENV, RESERVED_ENV_PREFIXES


@dataclass(frozen=True)
class Rule:
    """One rule: its place in the schema, its expression, and the fix."""

    at: str
    """Path in the schema; `files[]` is an item of the list `files`."""
    holds: str
    message: str
    expression: str = ""
    """CEL for a message that quotes values. The API server falls back to `message` if it fails."""
    field: str = ""
    """The field that the error names, below `at`."""
    reason: str = "FieldValueInvalid"

    def wire(self) -> dict[str, Any]:
        """Return the rule as an item of x-kubernetes-validations."""
        result = {"rule": self.holds, "message": self.message, "reason": self.reason}
        if self.expression:
            result["messageExpression"] = self.expression
        if self.field:
            result["fieldPath"] = self.field
        return result


def strings(values: Iterable[str]) -> str:
    """Return a list of strings in CEL."""
    return "[" + ", ".join(f"'{value}'" for value in values) + "]"


IS_RESERVED = " || ".join(
    [f"e.name in {strings(RESERVED_ENV)}", *(f"e.name.startsWith('{prefix}')" for prefix in RESERVED_ENV_PREFIXES)]
)
"""Whether the operator or torchrun sets the environment variable e."""
