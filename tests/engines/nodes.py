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
    """A head without room for work, and nodes of one CPU each."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._nodes: list[Any] = []

    def add(self) -> None:
        """One more node."""
        node = self._cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE, node_ip_address=LOOPBACK)
        self._nodes.append(node)

    @property
    def last(self) -> Any:
        """The node that was added last."""
        return self._nodes[-1]

    def kill(self) -> None:
        """End the last node and all that runs on it, at once."""
        self._cluster.remove_node(self._nodes.pop(), allow_graceful=False)

    @contextlib.contextmanager
    def joined(self) -> Iterator[Nodes]:
        """This process is part of the cluster, which has two nodes whatever was done to it before."""
        import ray

        while len(self._nodes) < 2:
            self.add()
        ray.init(address=self._cluster.address, **QUIET)
        try:
            yield self
        finally:
            ray.shutdown()


@contextlib.contextmanager
def started() -> Iterator[Nodes]:
    """The cluster, while it runs."""
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
        yield Nodes(cluster)
    finally:
        cluster.shutdown()
