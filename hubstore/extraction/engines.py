"""Engines: who does the work. `local` is this process, with its host's other devices; `ray` a cluster of hosts.

Ray is imported only where it is asked for, and what extracts only where something is extracted: a server starts
without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hubstore.errors import EngineError

if TYPE_CHECKING:
    from hubstore.extraction import Engine
    from hubstore.models import Model

ENGINES = ("local", "ray")

__all__ = ["ENGINES", "check_engine", "extraction_engine"]


def check_engine(name: str, address: str | None) -> None:
    """EngineError for an engine that there is not, an address that it has no use for, or one where nothing answers.

    Asked before anything is loaded; MissingDependencyError where Ray is asked for and not installed.
    """
    if name not in ENGINES:
        raise EngineError(f"{name!r} is no engine; choose {' or '.join(ENGINES)}")
    if name == "local" and address is not None:
        raise EngineError(f"the address {address} is of a Ray cluster; ask for it with --engine ray")
    if name == "ray":
        from hubstore.extraction.cluster import check_cluster

        check_cluster(address)


def extraction_engine(
    name: str, address: str | None, load: Callable[[str], Model], others: Sequence[str]
) -> Engine | None:
    """What deals shards out; None where this process does all by itself.

    Args:
        name: "local" or "ray".
        address: of a Ray cluster; see `hubstore.extraction.cluster.connected`.
        load: gives the model on a device, in whatever process.
        others: devices of this host beside the model's own, for the local engine.

    Raises:
        EngineError: no such engine, or no cluster at the address.
        MissingDependencyError: Ray is not installed.
    """
    check_engine(name, address)
    if name == "local":
        from hubstore.extraction import Workers

        return Workers(load, tuple(others)) if others else None
    from hubstore.extraction.ray import RayEngine

    return RayEngine(load, address)
