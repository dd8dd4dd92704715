"""Rules for failures of the code: which ones fail the job at once, and which ones do not count."""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from torchrun_operator.api.base import Model

MOST_RULES: Final = 20
_MOST_VALUES: Final = 64
_SIGNALS: Final = (
    "HUP|INT|QUIT|ILL|TRAP|ABRT|BUS|FPE|KILL|USR1|SEGV|USR2|PIPE|ALRM|TERM|STKFLT|XCPU|XFSZ|VTALRM|PROF|IO|PWR|SYS"
)
"""Signals that end a process, by Linux' names for them."""


class FailureAction(StrEnum):
    """What a failure leads to."""

    FAIL_JOB = "FailJob"
    IGNORE = "Ignore"
    COUNT = "Count"


class Operator(StrEnum):
    """How an exit code relates to the values of a rule."""

    IN = "In"
    NOT_IN = "NotIn"


class ExitCodes(Model):
    """Exit codes of the process that failed first."""

    operator: Annotated[
        Operator, Field(description="In: the exit code is one of the values. NotIn: it is another one than these.")
    ] = Operator.IN
    values: Annotated[
        tuple[Annotated[int, Field(ge=0, le=255)], ...],
        Field(description="The exit codes. Example: [2, 42].", min_length=1, max_length=_MOST_VALUES),
    ]


class FailureRule(Model):
    """A rule matches a failure that meets all its conditions. Without any, it matches every failure."""

    action: Annotated[
        FailureAction,
        Field(
            description="FailJob: the job fails at once. Ignore: the failure counts as infrastructure, which does not "
            "use up spec.maxRestarts; workers that fail so again within ten minutes move to a new pod. Count: it "
            "counts as code, as without a rule."
        ),
    ]
    exit_codes: Annotated[
        ExitCodes | None,
        Field(
            description="The exit code of the worker that failed first, or of the trainer container. A worker that a "
            "signal ended has none; a container that SIGKILL ended has 137."
        ),
    ] = None
    signals: Annotated[
        tuple[Annotated[str, Field(max_length=16, pattern=f"^SIG({_SIGNALS})$")], ...],
        Field(
            description="Signals that ended the worker that failed first, or the trainer container. "
            "Example: [SIGSEGV].",
            max_length=_MOST_VALUES,
        ),
    ] = ()
    reasons: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=128)], ...],
        Field(
            description="Reasons as in status.lastFailure.reason: those of Kubernetes, such as OOMKilled, or "
            "WorkersFailed, OthersFinished, ProgressDeadlineExceeded (workers that hang).",
            max_length=_MOST_VALUES,
        ),
    ] = ()
    messages: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=256)], ...],
        Field(
            description="Texts of which one occurs in what the worker or the container said: the whole traceback, "
            "of which status.lastFailure shows the beginning and the end. "
            "Example: [CUDA error, NCCL error].",
            max_length=_MOST_VALUES,
        ),
    ] = ()

    @property
    def conditional(self) -> bool:
        """Whether it has a condition. Without one it matches every failure."""
        return self.exit_codes is not None or bool(self.signals or self.reasons or self.messages)


class FailurePolicy(Model):
    """What failures of the code lead to, each by the first rule that matches."""

    rules: Annotated[
        tuple[FailureRule, ...],
        Field(
            description="The rules, in the order in which they are tried on the failure that happened first. Without a "
            "match, the failure counts.",
            max_length=MOST_RULES,
        ),
    ] = ()
