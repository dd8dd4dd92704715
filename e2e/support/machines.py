"""Machines of the local cluster for faults: as many as needed, one of them for the operator only."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from localcluster import cluster as local
from localcluster.locks import exclusive
from localcluster.node import Node
from localcluster.paths import Layout, node_name
from support import chart
from support.clusters import Cluster, local_cluster


@contextmanager
def cluster_of(machines: int) -> Iterator[Cluster]:
    """Run the local cluster with that many machines, and the operator on the last one, while the block runs."""
    before = len(local.nodes(Layout.of(os.environ))) or local.DEFAULT_NODES
    try:
        cluster = local_cluster(machines)
        try:
            chart.install(cluster, {r"nodeSelector.kubernetes\.io/hostname": node_name(machines)})
            yield cluster
        finally:
            chart.install(cluster)
    finally:
        if machines != before:
            local_cluster(before)


def changed(node: Node, change: Callable[[], None]) -> None:
    """Change a machine while no other process changes the cluster."""
    with exclusive(node.layout.lock, "it changes the cluster"):
        change()
