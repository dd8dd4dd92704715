"""status.progress: what the training script reports, in figures that people can read."""

from torchrun_operator.api import v1alpha1 as api
from torchrun_operator.core.facts.model import Facts

_DIGITS = 3


def progress(facts: Facts) -> api.Progress | None:
    """Return what the script last reported; what was known before, while nothing is reported."""
    new = facts.rendezvous.progress if facts.rendezvous is not None else None
    if new is None:
        return facts.job.status.progress
    return api.Progress(
        step=new.step,
        total_steps=new.total_steps,
        epoch=new.epoch,
        loss=_rounded(new.loss),
        samples_per_second=_rounded(new.samples_per_second),
        world_size=new.world_size,
        snapshot_step=new.snapshot_step,
        snapshot_time=new.snapshot_time,
        time=new.time,
    )


def _rounded(figure: float | None) -> float | None:
    """Round to three significant digits: kubectl prints all digits that a figure has."""
    return None if figure is None else float(f"{figure:.{_DIGITS}g}")
