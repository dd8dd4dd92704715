"""status.progress: what the training script reports, with readable figures."""

from torchrun_operator.api import v1alpha1 as api
from torchrun_operator.core.facts.model import Facts

_DIGITS = 3


def progress(facts: Facts) -> api.Progress | None:
    """Return what the script last reported. Without a report: the previous progress."""
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
    """Round to three significant digits, because kubectl prints all digits of a figure."""
    return None if figure is None else float(f"{figure:.{_DIGITS}g}")
