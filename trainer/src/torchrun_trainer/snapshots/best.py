"""Best: which step is the best so far, by the metric that ``keep_best`` names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from torchrun_trainer.snapshots import catalog
from torchrun_trainer.snapshots.place import Place
from torchrun_trainer.snapshots.snapshot import fact_name


class Best:
    """Compares the values of one metric; without ``keep_best`` no step is ever the best."""

    def __init__(self, keep_best: str | None) -> None:
        self.keep_best = keep_best
        self._metric = (keep_best or "").removeprefix("-")
        self._value: float | Tensor = math.nan
        self._best = self._before = -math.inf

    def restore(self, at: Place) -> None:
        """Continue from the best snapshot in a place."""
        best = catalog.best_of(catalog.available_at(at), self.keep_best) if self.keep_best else None
        if best:
            self._best = self._rating(best.metric(fact_name(self._metric)))

    def rate(self, metrics: Mapping[str, Any]) -> None:
        """Take the metric from the values of the current step, if it is among them."""
        value = metrics.get(self._metric)
        if value is not None:
            self._value = value.detach() if isinstance(value, Tensor) else value

    def improved(self) -> bool:
        """Return whether the current step is better than all before."""
        return self._rating(float(self._value)) > self._best

    def claim(self) -> dict[str, str]:
        """Return the fact for the name of the current step's snapshot, and remember how good the step is."""
        value = float(self._value)
        self._before, self._best = self._best, max(self._best, self._rating(value))
        return {} if math.isnan(value) else {self._metric: f"{value:.9g}"}

    def revoke(self) -> None:
        """Forget the last claim: its snapshot could not be written."""
        self._best = self._before

    def step_done(self) -> None:
        """Forget the value of the current step."""
        self._value = math.nan

    def _rating(self, value: float) -> float:
        if math.isnan(value):
            return -math.inf
        return value if self.keep_best == self._metric else -value
