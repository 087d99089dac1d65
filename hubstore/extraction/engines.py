"""Engines: who does the work. `local` is this process, with its host's other devices; `ray` a cluster of hosts.

Ray is imported only where it is asked for, and what extracts only where something is extracted: a server starts
without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hubstore.errors import EngineError

if TYPE_CHECKING:
    from hubstore.extraction import Engine
    from hubstore.models import Model

ENGINES = ("local", "ray")

__all__ = ["ENGINES", "Compute", "check_engine", "extraction_engine"]


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Where and by whom work is done; see `check_engine` for what is refused.

    Args:
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:1". Extraction takes several too:
            "cuda:0,cuda:1" or a sequence; "auto" is every GPU there.
        engine: "local", or "ray": the hosts of a Ray cluster share the work; what comes out is the same.
        address: of the Ray cluster; see `hubstore.extraction.cluster.connected`.
    """

    device: str | Sequence[str] = "auto"
    engine: str = "local"
    address: str | None = None

    def __post_init__(self) -> None:
        """Refuse an engine that is not there, before anything is loaded."""
        check_engine(self.engine, self.address)

    @property
    def one_device(self) -> str:
        """The device, of work that one does."""
        return self.device if isinstance(self.device, str) else ",".join(self.device)


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
    """What assigns shards; None where this process does all by itself.

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
