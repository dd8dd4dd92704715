"""How long to wait before the next attempt, and when to give up. Pure."""

from dataclasses import dataclass

FIRST_SECONDS = 1.0
MOST_SECONDS = 60.0
FATAL_ATTEMPTS = 3
"""A refusal, such as wrong credentials, rarely passes: a new account may need some seconds until it is known."""


@dataclass(frozen=True)
class Failures:
    """The failures since something last went well."""

    count: int = 0
    since: float = 0.0
    """When the first of them happened, in seconds of any clock."""

    def one_more(self, now: float) -> "Failures":
        """Return them with one more."""
        return Failures(self.count + 1, self.since if self.count else now)

    def wait_seconds(self, now: float, patience: float, *, fatal: bool) -> float | None:
        """Return how long to wait before the next attempt. None: give up."""
        if fatal and self.count >= FATAL_ATTEMPTS:
            return None
        wait = min(FIRST_SECONDS * 2.0 ** (self.count - 1), MOST_SECONDS)
        return wait if now - self.since + wait <= patience else None
