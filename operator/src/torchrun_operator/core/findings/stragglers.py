"""Stragglers: the worker that all others wait for at every step. The workers detect it."""

from torchrun_operator.api.v1alpha1 import Straggler
from torchrun_operator.core.facts.model import Facts
from torchrun_rendezvous.protocol import RendezvousState


def straggler(facts: Facts) -> Straggler | None:
    """Return the straggler that the workers of the current round report; without a state document, the recorded one."""
    rendezvous = facts.rendezvous
    if rendezvous is None:
        return facts.job.status.straggler
    progress = rendezvous.progress if _of_the_round(rendezvous) else None
    if progress is None or progress.slow_rank is None:
        return None
    address = next((member.address for member in rendezvous.members if member.rank == progress.slow_node), None)
    node = next((node for node in facts.nodes if node.address == address), None)
    return Straggler(
        rank=progress.slow_rank,
        pod=node.name if node is not None else "",
        machine=node.machine if node is not None else None,
        lag_seconds=float(f"{progress.slow_seconds or 0.0:.2g}"),
        step_seconds=float(f"{progress.step_seconds or 0.0:.2g}"),
    )


def _of_the_round(rendezvous: RendezvousState) -> bool:
    """Whether the newest progress belongs to the current round. Ranks differ between rounds."""
    progress, formed = rendezvous.progress, rendezvous.completed_at
    return rendezvous.complete and progress is not None and (formed is None or formed <= progress.time)
