"""A small Ray cluster on this machine: small nodes, everything on the loopback address, nothing left behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from hubstore.extraction.cluster import QUIET

OBJECT_STORE = 80 << 20
LOOPBACK = "127.0.0.1"

SYSTEM = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
"""A node that was killed is missed within seconds."""


class Nodes:
    """Nodes of `cpus` CPUs each."""

    def __init__(self, cluster: Any, cpus: int) -> None:
        self._cluster = cluster
        self._cpus = cpus

    def add(self) -> Any:
        """One more node."""
        return self._cluster.add_node(num_cpus=self._cpus, object_store_memory=OBJECT_STORE, node_ip_address=LOOPBACK)

    def kill(self, node: Any) -> None:
        """End a node and all that runs on it, at once."""
        self._cluster.remove_node(node, allow_graceful=False)


@contextlib.contextmanager
def two_nodes(cpus: int = 1) -> Iterator[tuple[Nodes, Any]]:
    """A head without room for work and two nodes, the second of which is given; this process has joined them."""
    import ray
    from ray.cluster_utils import Cluster

    head = {
        "num_cpus": 0,
        "object_store_memory": OBJECT_STORE,
        "include_dashboard": False,
        "node_ip_address": LOOPBACK,
        "_system_config": SYSTEM,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = Nodes(cluster, cpus)
        nodes.add()
        second = nodes.add()
        ray.init(address=cluster.address, **QUIET)
        yield nodes, second
    finally:
        ray.shutdown()
        cluster.shutdown()
