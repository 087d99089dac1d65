"""One Ray cluster for all tests here that are marked "ray"."""

import pytest


@pytest.fixture(scope="package")
def nodes():
    pytest.importorskip("ray")
    from tests.engines.nodes import started

    with started() as nodes:
        yield nodes


@pytest.fixture(scope="module")
def cluster(nodes):
    """The nodes; this process is part of the cluster as long as a module's tests last."""
    with nodes.joined():
        yield nodes
