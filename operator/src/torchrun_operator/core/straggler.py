"""Stragglers: which pod the worker runs in that all others wait for at every step. The workers themselves find it."""

from torchrun_operator.api.v1alpha1 import Straggler
from torchrun_operator.core.observed import Observed, Rendezvous


def straggler(old: Straggler | None, observed: Observed) -> Straggler | None:
    """Return the straggler that the workers of the running round name; while nothing is known, the one before."""
    rendezvous = observed.rendezvous
    if rendezvous is None:
        return old
    progress = rendezvous.progress if _of_the_round(rendezvous) else None
    if progress is None or progress.slow_rank is None:
        return None
    address = next((address for address, rank in rendezvous.members if rank == progress.slow_node), None)
    node = next((node for node in observed.nodes if node.address == address), None)
    return Straggler(
        rank=progress.slow_rank,
        pod=node.name if node is not None else "",
        machine=node.machine if node is not None else None,
        lag_seconds=float(f"{progress.slow_seconds or 0.0:.2g}"),
        step_seconds=float(f"{progress.step_seconds or 0.0:.2g}"),
    )


def _of_the_round(rendezvous: Rendezvous) -> bool:
    """Whether the newest progress is of the round that runs: ranks mean something else in another."""
    progress, formed = rendezvous.progress, rendezvous.completed_at
    return rendezvous.complete and progress is not None and (formed is None or formed <= progress.time)
