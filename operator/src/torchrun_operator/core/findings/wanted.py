"""How many nodes the job should have now."""

from dataclasses import dataclass

from torchrun_operator.api.v1alpha1 import TorchrunJobSpec


@dataclass(frozen=True)
class Wanted:
    """The nodes that the job should have now."""

    nodes: int
    """Nodes that train together."""
    spares: int
    """Nodes beyond those. No index belongs to a spare: the round decides who is one."""
    minimum: int
    """The fewest nodes that can train."""

    @property
    def pods(self) -> int:
        """Node pods that should exist."""
        return self.nodes + self.spares


def wanted(spec: TorchrunJobSpec, *, suspended: bool = False) -> Wanted:
    """Return how many nodes the job should have. Free capacity and quotas will be further inputs."""
    if suspended:
        return Wanted(0, 0, spec.min_nodes)
    nodes = spec.max_nodes if spec.replicas is None else spec.replicas
    return Wanted(nodes, spec.elasticity.spares, spec.min_nodes)
