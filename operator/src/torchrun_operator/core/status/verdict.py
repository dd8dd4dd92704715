"""A verdict: one condition before it is written."""

from dataclasses import dataclass

from torchrun_operator.api.conditions import ConditionType, Reason


@dataclass(frozen=True)
class Verdict:
    """One condition before it is written, without the times, which depend on the previous condition."""

    type: ConditionType
    status: bool
    reason: Reason
    message: str
