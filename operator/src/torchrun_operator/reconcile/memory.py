"""What the operator remembers of a job between passes. It saves requests; a new operator learns it again."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from torchrun_operator.core.facts.clocks import Sightings
from torchrun_operator.reconcile.listen import Hearings
from torchrun_operator.render.namespace import NO_RULES, NamespaceRules

_RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0)
"""How long to wait after the first attempt that is refused, after the second, and so on."""

Reference = tuple[str, str]
"""Kind and name of an object of the job."""


@dataclass(frozen=True)
class Attempt:
    """The last time that the job's objects were created or applied, and what the API server refused then."""

    at: datetime
    generation: int
    """Of the job's spec."""
    refusal: str = ""
    """Empty: it accepted everything."""
    refused: frozenset[Reference] = frozenset()
    """What it refused: only these wait."""
    name_taken: bool = False
    times: int = 0
    """Number of refused attempts in a row."""

    def retry_seconds(self, generation: int, now: datetime) -> float | None:
        """Return how long to wait before the next attempt. None: no wait.

        A refusal may be short (objects of a deleted job with that name) or long (a quota). A changed spec is tried at
        once.
        """
        if not self.refusal or self.generation != generation:
            return None
        wait = _RETRY_SECONDS[min(self.times, len(_RETRY_SECONDS)) - 1]
        left = (self.at + timedelta(seconds=wait) - now).total_seconds()
        return left if left > 0 else None


@dataclass
class Memory:
    """One job's."""

    uid: str
    applied: dict[Reference, tuple[str, datetime]] = field(default_factory=dict)
    """The digest of what was applied last, and when, by kind and name."""
    rules: NamespaceRules = NO_RULES
    rules_read_at: datetime | None = None
    """When the rules of the namespace were read. None: they are due."""
    attempt: Attempt | None = None
    """None: this operator has not tried yet. The status has the refusal of an earlier operator."""
    status_written_at: datetime | None = None
    sightings: Sightings | None = None
    """When this operator first saw the states of the pods. None: it has not looked yet."""
    hearings: Hearings = field(default_factory=Hearings)
