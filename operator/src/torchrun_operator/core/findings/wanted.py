"""The number of nodes that the job should have now."""

from dataclasses import dataclass

from torchrun_operator.api.v1alpha1 import TorchrunJobSpec


@dataclass(frozen=True)
class Wanted:
    """The nodes that the job should have now."""

    nodes: int
    """Nodes that train together."""
    spares: int
    """Further nodes. Each index can be the spare: the round decides which nodes are spares."""
    minimum: int
    """The minimum number of nodes that can train."""

    @property
    def pods(self) -> int:
        """Node pods that should exist."""
        return self.nodes + self.spares


def wanted(spec: TorchrunJobSpec, *, suspended: bool = False) -> Wanted:
    """Return how many nodes the job should have."""
    if suspended:
        return Wanted(0, 0, spec.min_nodes)
    nodes = spec.max_nodes if spec.replicas is None else spec.replicas
    return Wanted(nodes, spec.elasticity.spares, spec.min_nodes)
