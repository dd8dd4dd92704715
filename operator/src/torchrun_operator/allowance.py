"""A limit for something that another party may ask for as often as it likes. Pure."""

from dataclasses import dataclass


@dataclass
class Allowance:
    """A token bucket: `burst` uses at once, then one every `seconds`."""

    burst: float
    seconds: float
    credit: float | None = None
    """Uses that are left. Negative: the next use is that far away. None: it was never used."""
    at: float = 0.0

    def spend(self, now: float, cost: float = 1.0) -> float:
        """Take `cost` uses. Return the seconds until the next one is due; 0: at once."""
        self.credit, self.at = self._earned(now) - cost, now
        return max(0.0, (1 - self.credit) * self.seconds)

    def permits(self, now: float) -> bool:
        """Take one use if there is one. Return whether there was."""
        if self._earned(now) < 1:
            return False
        self.spend(now)
        return True

    def _earned(self, now: float) -> float:
        earned = self.burst if self.credit is None else self.credit + (now - self.at) / self.seconds
        return min(self.burst, earned)
